"""The Knowledge Within, section 4.2: calibrate a quantised network on synthetic images."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from pydantic import Field
from torch import nn

from ...config import Precision, Strict
from ...core import observers, quantized
from ...core.hooks import device_of
from ...core.precision import autocast, uses_bf16
from ...core.register import Result, method
from ...data.images import ImageSet, random_crop_and_mirror
from ...errors import DataFreeError
from .distillation import DistillConfig, distill
from .synthesis import SCHEMES, Scheme, SynthesisConfig, image_set


class KnowledgeWithin(Strict):
    """What `datafree.compress` needs to know for this paper: bits, calibration, and where images come from."""

    weight_bits: int = Field(4, ge=2, le=16, description="X of XwYa")
    act_bits: int = Field(4, ge=2, le=16, description="Y of XwYa")
    edge_bits: int | None = Field(None, ge=2, le=16, description="width of first and last layer; None: as the others")
    per_channel: bool = Field(True, description="weight ranges per output channel (section 4.2)")
    scheme: Scheme = Field("bns", description="generator of the calibration images, where none are given")
    images: int = Field(500, ge=1, description="size of the set; 50 per class on CIFAR-10 (section 4.2)")
    steps: int = Field(200, ge=1, description="calibration steps (section 4.2)")
    batch: int = Field(256, ge=1, description="images drawn with replacement a step (section 4.2)")
    chunk: int = Field(16, ge=1, description="samples over which extremes are taken (section 4.2)")
    augment: bool = Field(True, description="random crop and mirror of every drawn batch (section 4.2)")
    precision: Precision = Field("float32", description="of the passes that measure ranges")
    synthesis_steps: int = Field(500, ge=1, description="budget of Algorithm 1")
    copies: int = Field(4, ge=1, description="augmented copies in synthesis (section 4.1)")
    distillation: DistillConfig | None = Field(None, description="how the student is trained; None: only calibrated")
    seed: int = Field(0, ge=0)


def calibrate(student: nn.Module, images: ImageSet, config: KnowledgeWithin) -> nn.Module:
    """Measure every input range of `student` on augmented draws from `images` (The Knowledge Within, section 4.2).

    Nothing is rounded in these passes, so the ranges serve every bit width: see `quantized.set_bits`.
    """
    observer = partial(observers.ChunkAverageObserver, chunk=config.chunk)
    with autocast(uses_bf16(config.precision, device_of(student))):
        return quantized.calibrate(student, draws(images, config), observer)


def draws(images: ImageSet, config: KnowledgeWithin) -> Iterator[torch.Tensor]:
    """The batches of section 4.2: images drawn with replacement, each batch augmented anew."""
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        index = torch.randint(0, len(images), (config.batch,), generator=generator, device="cpu")
        x = images[index].floats()
        if config.augment:
            x = random_crop_and_mirror(x, generator).contiguous(memory_format=torch.channels_last)
        yield x


def uncalibrated(model: nn.Module, config: KnowledgeWithin) -> nn.Module:
    """A quantised copy whose input ranges are still to be measured."""
    return quantized.prepare(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )


def _refuse_noise_that_adapts(config: KnowledgeWithin) -> None:
    taught = config.distillation
    if taught and config.scheme == "gaussian" and taught.batchnorm == "running":
        raise DataFreeError(
            "BatchNorm that adapts to noise ruins the network; set distillation.batchnorm to frozen, or take other images "
            "than those of the scheme gaussian."
        )


@method(
    "knowledge_within",
    paper="The Knowledge Within",
    about="quantise; calibrate and distil on images that BatchNorm's statistics make",
    structure=uncalibrated,
    needs_batchnorm=lambda config: config.scheme != "gaussian",
)
def compress(
    model: nn.Module, config: KnowledgeWithin, images: ImageSet | None = None, shape: tuple[int, int, int] = (3, 32, 32)
) -> Result:
    """Quantise `model` and calibrate it on `images`, or on images of `shape` that the model's own statistics make."""
    report = {"images": "given"}
    if images is None:
        _refuse_noise_that_adapts(config)
        synthesis = SynthesisConfig(
            scheme=config.scheme, steps=config.synthesis_steps, copies=config.copies, seed=config.seed
        )
        images = image_set(model, synthesis, config.images, size=shape[-1])
        report = {"images": SCHEMES[config.scheme]}
    student = calibrate(uncalibrated(model, config), images, config)
    if config.distillation:
        report["distillation_loss"] = distill(student, model, images, config.distillation)[-1]
    return Result(student, report)
