"""The archives of CIFAR-10 and CIFAR-100 as their authors publish them, laid out as image folders."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

BATCHES = {
    "cifar-10-batches-py": {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]},
    "cifar-100-python": {"train": ["train"], "test": ["test"]},
}
"""Folder in the archive -> the files of each split, in the data set's own order."""


def unpack(archive: Path, folder: Path) -> Path:
    """Write FOLDER/{train,test}/CLASS/NNNNN.png, NNNNN being an image's place in its split, from CIFAR's `archive`.

    The archive holds pickles: give one whose SHA-256 was checked.
    """
    with tarfile.open(archive) as tar:
        inside = next(name for name in BATCHES if name in tar.getnames())
        names = _names(tar, inside)
        for split, batches in BATCHES[inside].items():
            for name in names:
                (folder / split / name).mkdir(parents=True)
            rows = (row for batch in batches for row in _rows(_read(tar, f"{inside}/{batch}")))
            for place, (label, pixels) in enumerate(rows):
                path = folder / split / names[label] / f"{place:05d}.png"
                Image.fromarray(pixels).save(path, compress_level=1)
    return folder


def _read(tar: tarfile.TarFile, name: str) -> dict[bytes, Any]:
    return pickle.load(tar.extractfile(name), encoding="bytes")


def _names(tar: tarfile.TarFile, inside: str) -> list[str]:
    ten = inside == "cifar-10-batches-py"
    names = (
        _read(tar, f"{inside}/batches.meta")[b"label_names"]
        if ten
        else _read(tar, f"{inside}/meta")[b"fine_label_names"]
    )
    return [name.decode() for name in names]


def _rows(batch: dict[bytes, Any]):
    """Label and pixels [32, 32, 3] of each image; in the file a row holds all of red, then green, then blue."""
    labels = batch.get(b"fine_labels") or batch[b"labels"]
    yield from zip(labels, batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), strict=True)
