"""Large inputs: a folder of 50,000 pictures, a network of 60 million parameters, a thousand candidates."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from datafree import LayerWise, compress
from datafree.data.sources import load_images
from datafree.networks.blocks import Normalize
from datafree.papers.frandi import compression, factorization, selection

from . import networks
from .harness import Sides, case

GROUP = "Large inputs"
PICTURES, CLASSES = 50_000, 10
FOLDERS: list[tempfile.TemporaryDirectory] = []
"""Kept until the process ends."""


def pictures() -> Path:
    """A folder of 50,000 pictures of 32 by 32 pixels: a hundred files, and links to them."""
    FOLDERS.append(tempfile.TemporaryDirectory())
    root, rng = Path(FOLDERS[-1].name), np.random.default_rng(0)
    for k in range(PICTURES):
        place = root / f"class{k % CLASSES}" / f"{k // CLASSES:05}.png"
        if k < 100:
            place.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place)
        else:
            os.link(root / f"class{k % CLASSES}" / f"{k % 100 // CLASSES:05}.png", place)
    return root


@case("a folder of 50,000 pictures", group=GROUP, ours="read as one set", theirs="each file decoded, and forgotten")
def folder() -> Sides:
    root = pictures()

    def decoded() -> None:
        for path in sorted(root.rglob("*.png")):
            np.asarray(Image.open(path).convert("RGB"))

    return Sides(partial(load_images, f"folder:{root}"), decoded)


def wide() -> nn.Module:
    """A plain chain of 61 million parameters."""
    torch.manual_seed(0)
    sides, layers = (3, 512, 1024, 2048, 2048), []
    for before, after in zip(sides, sides[1:]):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sides[-1], CLASSES)]
    return nn.Sequential(Normalize((0.5,) * 3, (0.25,) * 3), *layers, *head).eval()


@case(
    "61 million parameters, layer by layer", group=GROUP, ours="quantised to 8 bits layer by layer",
    theirs="one forward pass of 32 images of 8 x 8",
)  # fmt: skip
def parameters() -> Sides:
    net, images = wide(), torch.rand(32, 3, 8, 8)
    return Sides(partial(compress, net, LayerWise(samples=64), shape=(3, 8, 8)), torch.no_grad()(partial(net, images)))


@case("1,000 candidates over 500", group=GROUP, ours="1,000 sets of ranks scored", theirs="500 sets of ranks scored")
def candidates() -> Sides:
    net, batch, side = networks.sized("batch", 16)
    factors, pool = factorization.Factorizer(net, (3, side, side)), networks.noise(batch, side)
    config = compression.FRanDI(candidates=1000, reduction=3.0, tolerance=0.05)
    rows = selection.Sampler(factors, config).rows()
    score = partial(selection.discrepancies, factors, images=pool, calibrated=True, precision="float32")
    return Sides(partial(score, rows), partial(score, rows[:500]))
