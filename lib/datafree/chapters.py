"""What a chapter's parameters stand for: its network, its images, and the pools it calibrates on."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from . import data, models
from .errors import DataFreeError
from .papers.knowledge_within import SCHEMES, SynthesisConfig, count_classes, image_set, normalisation
from .params import KWPools, Strict, triple
from .paths import BUILD

SOURCES = {"real": "real", "bns": "BNS", "bns_inception": "BNS + I", "inception": "I", "gaussian": "G"}
"""Sources of calibration images in the order of the paper's tables, with the names shown in figures."""


def network(config: Strict) -> nn.Module:
    """The reference network: embedded weights, or the file of `weights` with its normalisation."""
    settings = {name: value for name in ("mean", "std") if (value := triple(getattr(config, name)))}
    return models.load(config.model, config.weights or None, **settings)


def images(config: Strict, split: str, count: int | None = None) -> data.ImageSet:
    """The data set of `config`; with `count`, an evenly spread part that keeps the classes' shares."""
    side = models.image_size(config.model)
    whole = data.load(config.data, split, root=config.root or None, size=side, limit=count)
    if count is None or count >= len(whole):
        return whole
    if count < len(whole.classes):
        raise DataFreeError(f"{count} images were asked for, fewer than the {len(whole.classes)} classes.")
    return whole.per_class(count // len(whole.classes))


def part(pool: data.ImageSet, count: int) -> data.ImageSet:
    """`count` images of a pool: of a real one equally many a class, of a generated one every so many-th."""
    if count >= len(pool):
        return pool
    if pool.pixels.dtype == torch.uint8:
        return pool.per_class(max(1, count // len(pool.classes)))
    return pool[torch.linspace(0, len(pool) - 1, count).long()]


def synthesis_config(config: KWPools, scheme: str, sigma: float = 1.0) -> SynthesisConfig:
    """How the pools of images are made that the chapters on calibration and distillation share."""
    return SynthesisConfig(
        scheme=scheme, batch=config.synthesis_batch, steps=config.synthesis_steps, copies=config.copies,
        rate=config.rate, sigma=sigma, precision=config.precision, seed=config.seed,
    )  # fmt: skip


def pool_path(config: KWPools, scheme: str, sigma: float = 1.0) -> Path:
    """Where the images of a scheme are kept between runs."""
    kernel = "" if sigma == 1.0 else f"-sigma{sigma:g}"
    return BUILD / "images" / config.profile / f"{scheme}{kernel}-seed{config.seed}.safetensors"


def pool(model: nn.Module, config: KWPools, source: str, sigma: float = 1.0, count: int | None = None) -> data.ImageSet:
    """`count` (default: config.images) images of one source: real training images, or made (or read back) by a scheme."""
    count = count or config.images
    if source == "real":
        return images(config, "train", count)
    if source not in SCHEMES:
        raise DataFreeError(f"image source '{source}' is not known; choose one of {', '.join(SOURCES)}.")
    path = pool_path(config, source, sigma)
    side = models.image_size(config.model) or 32
    classes = count_classes(model, (3, side, side))
    return image_set(model, synthesis_config(config, source, sigma), count, path, side, classes)


__all__ = ["SOURCES", "images", "network", "normalisation", "part", "pool", "pool_path", "synthesis_config"]
