"""The image sets that come with the repository: sheets of tiles and lists of labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .. import files
from .images import ImageSet, resize_pixels

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION_CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]

EMBEDDED_SETS = {
    "cifar10-stub": ("cifar10", CIFAR10_CLASSES),
    "fashion-mnist-stub": ("fashion-mnist", FASHION_CLASSES),
    "digits-stub": ("digits", [str(k) for k in range(10)]),
}
"""Name of an embedded set -> its folder in data_stubs and its classes."""


def read_stub(name: str, split: str, side: int) -> ImageSet:
    folder, classes = EMBEDDED_SETS[name]
    missing = f"the embedded subset '{name}' has no split '{split}'; use 'test' or 'train'"
    sheet = files.verified(files.stub_path(f"{folder}/{split}.webp", missing=missing))
    listing = json.loads(
        files.verified(
            files.stub_path(f"{folder}/{split}.json", missing="the labels of the stub are missing")
        ).read_text()
    )
    labels = torch.tensor(listing["labels"])
    columns, size = listing["columns"], listing["size"]
    picture = torch.from_numpy(np.array(Image.open(sheet).convert("RGB")))
    rows = picture.shape[0] // size
    # the sheet of rows x columns tiles, cut up
    tiles = picture.view(rows, size, columns, size, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    tiles = tiles[: len(labels)].contiguous()
    return ImageSet(tiles if size == side else resize_pixels(tiles, side), labels, classes, f"{name}/{split}")


def write_stub(
    source: ImageSet, split: str, per_class: int | None, columns: int = 50, name: str = "cifar10-stub"
) -> Path:
    """Make data_stubs/FOLDER/SPLIT.{webp,json}: a lossless sheet of tiles and its labels.

    Args:
        source: the whole set, at its own size.
        per_class: images of each class to draw; None takes all, in their order.
        name: one of EMBEDDED_SETS.
    """

    chosen = source if per_class is None else source.per_class(per_class)
    n, _, size, _ = chosen.pixels.shape
    rows = -(-n // columns)
    tiles = torch.zeros(rows * columns, 3, size, size, dtype=torch.uint8)
    tiles[:n] = chosen.pixels
    # tiles laid out as rows x columns
    sheet = tiles.view(rows, columns, 3, size, size).permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3)
    listing = {"labels": chosen.labels.tolist(), "columns": columns, "size": size}
    folder = files.STUBS / EMBEDDED_SETS[name][0]
    files.write_atomically(folder / f"{split}.json", lambda p: p.write_text(json.dumps(listing)))
    return files.write_atomically(
        folder / f"{split}.webp",
        lambda p: Image.fromarray(sheet.numpy()).save(p, lossless=True, quality=100, method=6, exact=True),
    )
