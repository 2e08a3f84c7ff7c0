"""The Knowledge Within, section 4.2: calibrate a quantised network on synthetic images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from pydantic import Field
from torch import nn

from ...config import Strict
from ...core import observers, quantized
from ...core.distillation import DistillConfig, distill
from ...core.metrics import count_classes
from ...core.precision import Precision, autocast, uses_bf16
from ...data.images import ImageSet, random_crop_and_mirror
from .synthesis import SCHEMES, Scheme, SynthesisConfig, image_set


class KnowledgeWithin(Strict):
    """What `datafree.compress` needs to know for this paper: bits, calibration, and where images come from."""

    weight_bits: int = Field(4, ge=2, le=16, description="X of XwYa")
    act_bits: int = Field(4, ge=2, le=16, description="Y of XwYa")
    edge_bits: int | None = Field(None, ge=2, le=16, description="width of first and last layer; None: as the others")
    per_channel: bool = Field(True, description="weight ranges per output channel (section 4.2)")
    scheme: Scheme = Field("bns", description="generator of the calibration images, where none are given")
    images: int = Field(500, ge=1, description="size of the pool; 50 per class on CIFAR-10 (section 4.2)")
    steps: int = Field(200, ge=1, description="calibration steps (section 4.2)")
    batch: int = Field(256, ge=1, description="images drawn with replacement a step (section 4.2)")
    chunk: int = Field(16, ge=1, description="samples over which extremes are taken (section 4.2)")
    augment: bool = Field(True, description="random crop and mirror of every drawn batch (section 4.2)")
    precision: Precision = Field("float32", description="of the passes that measure ranges")
    synthesis_steps: int = Field(500, ge=1, description="budget of Algorithm 1")
    copies: int = Field(4, ge=1, description="augmented copies in synthesis (section 4.1)")
    distillation: DistillConfig | None = Field(None, description="how the student is trained; None: only calibrated")
    seed: int = Field(0, ge=0)


def calibrate(student: nn.Module, pool: ImageSet, config: KnowledgeWithin) -> nn.Module:
    """Measure every input range of `student` on augmented draws from `pool` (The Knowledge Within, section 4.2).

    Nothing is rounded in these passes, so the ranges serve every bit width: see `quantized.set_bits`.
    """
    observer = partial(observers.ChunkAverageObserver, chunk=config.chunk)
    with autocast(uses_bf16(config.precision)):
        return quantized.calibrate(student, draws(pool, config), observer)


def draws(pool: ImageSet, config: KnowledgeWithin) -> Iterator[torch.Tensor]:
    """The batches of section 4.2: images drawn with replacement, each batch augmented anew."""
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        index = torch.randint(0, len(pool), (config.batch,), generator=generator)
        x = pool[index].floats()
        if config.augment:
            x = random_crop_and_mirror(x, generator).contiguous(memory_format=torch.channels_last)
        yield x


def compress(
    model: nn.Module, config: KnowledgeWithin, pool: ImageSet | None, shape: tuple[int, int, int]
) -> tuple[nn.Module, dict]:
    """Quantise `model` and calibrate it on `pool`, or on images of `shape` that the model's own statistics make."""
    report = {"images": "given"}
    if pool is None:
        synthesis = SynthesisConfig(
            scheme=config.scheme, steps=config.synthesis_steps, copies=config.copies, seed=config.seed
        )
        pool = image_set(model, synthesis, config.images, size=shape[-1], classes=count_classes(model, shape))
        report = {"images": SCHEMES[config.scheme]}
    student = quantized.prepare(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )
    calibrate(student, pool, config)
    if config.distillation:
        report["distillation_loss"] = distill(student, model, pool, config.distillation)[-1]
    return student, report
