"""Two pictures for the front page: what a network was trained on, and what it dreams from its BatchNorm layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import chapters, parameters


def draw(profile: str, folder: Path, columns: int = 8, rows: int = 3) -> None:
    """Draw images that the network was trained on, and images made from its BatchNorm layers, into `folder`.

    The generated images are those of the chapters; they are made here where no chapter has made them yet.
    """
    config = parameters.resolve("02_kw_calibration", profile)
    count = columns * rows
    real = chapters.images(config, "train", config.images)
    made = chapters.calibration_images(chapters.network(config), config, "bns")
    for name, images in (("trained", real), ("dreamed", made)):
        spread = torch.arange(count) * len(images) // count  # all classes, and full rows
        _mosaic(images[spread].floats(), columns, folder / f"{name}.webp")


def _mosaic(images: Any, columns: int, path: Path) -> None:
    """Images [N, 3, H, W] in full rows, as a picture."""
    pixels = (255 * images.clamp(0, 1)).round().byte().numpy()
    rows = len(pixels) // columns
    grid = pixels[: rows * columns].reshape(rows, columns, *pixels.shape[1:])  # [rows, columns, 3, H, W]
    whole = grid.transpose(0, 3, 1, 4, 2).reshape(rows * grid.shape[3], columns * grid.shape[4], 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(whole).save(path, lossless=True)
