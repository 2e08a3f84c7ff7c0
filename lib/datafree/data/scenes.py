"""Small scenes with a label for every pixel, composed from the embedded images: the same seed gives the same scenes.

A photograph of CIFAR-10, enlarged, is the background. One to three pieces of clothing of Fashion-MNIST, or digits, lie on
it, each in one colour. An object is where its grey level is above a threshold. Train and test use the images of their own split.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..errors import DataFreeError
from .embedded import read_stub
from .images import ImageSet

GARMENTS = ("t-shirt", "trouser", "dress", "sneaker", "bag", "ankle boot")
"""Classes of Fashion-MNIST that are used; pullovers, coats and shirts look too much like each other at this size."""

CLASSES = ["background", *GARMENTS, "digit"]
COUNT = {"train": 6000, "test": 1000}
SEED = {"train": 1, "test": 2}
SIDE = 64
OBJECTS = 3
"""Objects in a scene, at most."""
SIZES = 0.3, 0.7
"""Side of an object as a share of the scene's."""
THRESHOLD = 0.15
"""Grey level from which on a pixel belongs to the object."""
COLOUR = 0.35, 1.0
"""Range of each channel of an object's colour."""


class Draws:
    """Numbers drawn one after the other from one generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def number(self, bound: int) -> int:
        """A whole number from 0 to below `bound`."""
        return int(torch.randint(bound, (1,), generator=self.generator))

    def between(self, low: float, high: float) -> float:
        """A number between two."""
        return low + (high - low) * float(torch.rand(1, generator=self.generator))


def _sources(split: str) -> list[torch.Tensor]:
    """For each class but the background its grey images [N, h, w] in [0, 1]."""
    clothes = read_stub("fashion-mnist-stub", split, 28)
    grey = clothes.pixels[:, 0].float() / 255
    kinds = [grey[clothes.labels == clothes.classes.index(name)] for name in GARMENTS]
    return [*kinds, read_stub("digits-stub", split, 8).pixels[:, 0].float() / 255]


def paste(scene: torch.Tensor, labels: torch.Tensor, item: torch.Tensor, label: int, draws: Draws) -> None:
    """One object at a random place, size and colour, in place; it covers what lies below it."""
    side = scene.shape[-1]
    size = round(draws.between(*SIZES) * side)
    item = F.interpolate(item[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]
    top, left = draws.number(side - size + 1), draws.number(side - size + 1)
    colour = torch.tensor([draws.between(*COLOUR) for _ in range(3)]).view(3, 1, 1)
    # dark pixels of the item are its background
    mask = item > THRESHOLD
    window = slice(top, top + size), slice(left, left + size)
    scene[:, window[0], window[1]] = torch.where(mask, colour * item, scene[:, window[0], window[1]])
    labels[window] = torch.where(mask, label, labels[window])


def make(split: str, count: int | None = None, side: int | None = None) -> ImageSet:
    """The first `count` scenes of a split; a smaller count gives the beginning of a larger one.

    Args:
        split: 'train' or 'test'; they share no photograph, no piece of clothing and no digit.
        count: default: COUNT. side: of the scenes in pixels; default: SIDE.
    Returns:
        pixels [N, 3, side, side] in bytes, labels [N, side, side] as places in CLASSES.
    """
    count, side = count or COUNT[split], side or SIDE
    if side < 16:
        raise DataFreeError(f"scenes of {side} pixels are too small for objects; give size=16 or more.")
    draws = Draws(torch.Generator().manual_seed(SEED[split]))
    photographs, items = read_stub("cifar10-stub", split, 32).pixels, _sources(split)
    pixels = torch.empty(count, 3, side, side, dtype=torch.uint8)
    labels = torch.zeros(count, side, side, dtype=torch.int8)
    for k in range(count):
        back = photographs[draws.number(len(photographs))].float()[None] / 255
        scene = F.interpolate(back, size=(side, side), mode="bilinear", align_corners=False)[0]
        for _ in range(1 + draws.number(OBJECTS)):
            kind = draws.number(len(items))
            item = items[kind][draws.number(len(items[kind]))]
            paste(scene, labels[k], item, kind + 1, draws)
        pixels[k] = (scene * 255).round().to(torch.uint8)
    return ImageSet(pixels, labels, CLASSES, f"scenes/{split}")
