"""The page of repeated runs: what another try, another number of threads or another precision changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..evidence import compare
from ..evidence.record import read
from . import markdown


class Kind(NamedTuple):
    """What a record in book/repeats/CHAPTER stands for, by its file's name.

    beside: the record it is compared with.
    share: by how much a number may differ, as a share of the larger; accuracies may differ by `compare.NOISE` standard
        errors over their test images instead, wherever anything may differ at all.
    """

    name: str
    beside: str
    share: float
    why: str


KINDS = (
    Kind("again", "threads1", 0.0, "the same command, twice on one machine"),
    Kind("threads2", "threads1", 0.01, "two threads for one: sums are taken in another order"),
    Kind("threads4", "threads1", 0.01, "four threads for one"),
    Kind(
        "float32", "threads1", 0.1, "float32 where the processor makes images in bf16: other roundings, so other images"
    ),
)


ROUNDING = 1e-12
"""A difference that is rounding itself: some numbers say by how little two ways to compute one thing differ."""


def folder() -> Path:
    """Where the records lie, a folder a chapter; they are apart from those that the ledger reads."""
    return files.ROOT / "book" / "repeats"


def pairs() -> list[tuple[Kind, dict[str, Any], dict[str, Any]]]:
    """Each repeated run after the one that it repeats."""
    found = []
    for chapter in sorted(folder().glob("*/")):
        for kind in KINDS:
            paths = [chapter / f"{name}.json" for name in (kind.beside, kind.name)]
            if all(path.is_file() for path in paths):
                found.append((kind, *map(read, paths)))
    return found


def too_far(kind: Kind, found: compare.Comparison) -> list[compare.Moved]:
    """The numbers that differ by more than the kind allows."""
    told = [moved for moved in found.moved if abs(moved.first - moved.second) > ROUNDING]
    if not kind.share:
        return told
    return [
        moved for moved in told if (moved.share > kind.share if moved.errors is None else moved.errors > compare.NOISE)
    ]


def row(kind: Kind, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """A line of the page."""
    found = compare.compare(first, second)
    known = [m.share for m in found.moved if m.errors is None and abs(m.first - m.second) > ROUNDING]
    return {
        "chapter": found.notebook,
        "kind": kind,
        "same": found.same,
        "moved": len(found.moved),
        "largest": 100 * max(known, default=0.0),
        "errors": max((moved.errors for moved in found.moved if moved.errors is not None), default=0.0),
        "far": [str(moved) for moved in too_far(kind, found)],
        "flips": len(found.flips),
        "beyond": [str(flip) for flip in found.flips if flip.beyond_noise],
    }


def page() -> str:
    """All of them as Markdown."""
    return markdown.page(
        "reproducible", rows=[row(*pair) for pair in pairs()], kinds=KINDS, noise=compare.NOISE, rounding=ROUNDING
    )
