"""Two records of one chapter side by side: verdicts that flip, numbers that moved, and what differs behind them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataFreeError
from . import record
from .criteria import Criterion, Missing, Run, load
from .measured import Measured, accuracy, unpack
from .verdict import Effect

NOISE = 2.0
"""Standard errors that a difference may have by chance."""

NOT_COMPARED = ("second", "time", "peak", "memory", "µs")
"""Words in the name of a metric that say what the machine did: cost differs from run to run."""


SHOWN = 10
"""Differences that are printed."""


@dataclass(frozen=True)
class Moved:
    """A number of both runs. errors: the difference in standard errors; None where no chance is known for it."""

    name: str
    first: float
    second: float
    errors: float | None

    @property
    def share(self) -> float:
        """The difference as a share of the larger number."""
        return abs(self.first - self.second) / (max(abs(self.first), abs(self.second)) or 1.0)

    def __str__(self) -> str:
        by = (
            f"{100 * self.share:.2g} %, chance unknown" if self.errors is None else f"{self.errors:.1f} standard errors"
        )
        return f"{self.name}: {self.first:.6g} -> {self.second:.6g} ({by})"


@dataclass(frozen=True)
class Flip:
    """A part of a claim for which one run speaks and the other against."""

    claim: str
    part: str
    first: float
    second: float
    errors: float | None

    @property
    def beyond_noise(self) -> bool:
        """True where chance does not explain it, or where nothing is known of chance."""
        return self.errors is None or self.errors > NOISE

    def __str__(self) -> str:
        by = "chance unknown" if self.errors is None else f"{self.errors:.1f} standard errors"
        what = f"{self.claim}, {self.part}" if self.part else self.claim
        return f"{what}: {self.first:+.4g} -> {self.second:+.4g} ({by}{'' if self.beyond_noise else ', within noise'})"


@dataclass(frozen=True)
class Comparison:
    """What `compare` finds; moved has only what differs, largest first (in standard errors, then as a share)."""

    notebook: str
    flips: list[Flip]
    moved: list[Moved]
    same: int
    differs: dict[str, tuple[Any, Any]]

    @property
    def agrees(self) -> bool:
        return not any(flip.beyond_noise for flip in self.flips)


def lines(found: Comparison) -> list[str]:
    """What a comparison says, as lines of text."""
    beyond = sum(flip.beyond_noise for flip in found.flips)
    said = [f"{found.notebook}: {found.same} numbers are equal, {len(found.moved)} differ."]
    said += [f"flips: {len(found.flips)}, beyond noise {beyond}", *(f"  {flip}" for flip in found.flips)]
    if found.moved:
        said += [f"largest differences ({min(SHOWN, len(found.moved))} of {len(found.moved)}):"]
        said += [f"  {moved}" for moved in found.moved[:SHOWN]]
    if found.differs:
        said += ["what differs behind them:", *(f"  {key}: {a} -> {b}" for key, (a, b) in found.differs.items())]
    return said


def committed(notebook: str, profile: str = "book", seed: int = 0) -> dict[str, Any]:
    """The record of book/records; DataFreeError where there is none."""
    return _found(files.RECORDS, notebook, profile, seed, "committed record")


def fresh(notebook: str, profile: str = "book", seed: int = 0) -> dict[str, Any]:
    """The record of _build/records; DataFreeError where there is none."""
    return _found(files.BUILD / "records", notebook, profile, seed, "fresh record")


def _found(folder: Path, notebook: str, profile: str, seed: int, what: str) -> dict[str, Any]:
    path = folder / profile / notebook / f"seed{seed}.json"
    if not path.is_file():
        raise DataFreeError(
            f"there is no {what} of '{notebook}', profile {profile}, seed {seed} (no file '{path}'); "
            f"make one with 'datafree run {notebook} --profile {profile} --seed {seed}', or give two record files."
        )
    return record.read(path)


def pair(first: str, second: str = "", profile: str = "book", seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two records to compare: two files; one file and the committed record of its run; or, by a notebook's name, the
    committed record and the fresh one."""
    if second:
        return record.read(Path(first)), record.read(Path(second))
    if first.endswith(".json"):
        given = record.read(Path(first))
        return committed(given["notebook"], given["profile"], given["seed"]), given
    name = Path(first).name.removesuffix(".ipynb")
    return committed(name, profile, seed), fresh(name, profile, seed)


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compare two records of one chapter."""
    if first["notebook"] != second["notebook"]:
        raise DataFreeError(
            f"the records are of {first['notebook']} and {second['notebook']}; give two records of one chapter."
        )
    pairs = list(_numbers(first, second))
    moved = [m for m in pairs if m.first != m.second]
    moved.sort(key=lambda m: (m.errors is None, -(m.errors or 0.0), -m.share, m.name))
    flips = [flip for c in load().values() if c.chapter == first["notebook"] for flip in _flips(c, first, second)]
    return Comparison(first["notebook"], flips, moved, len(pairs) - len(moved), _differing(first, second))


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, (*path, str(key)))
    elif isinstance(value, list):
        for k, item in enumerate(value):
            yield from _flat(item, (*path, str(k)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield "/".join(path), float(value)


def _numbers(first: dict, second: dict) -> Iterator[Moved]:
    mine, theirs = dict(_flat(first["metrics"])), dict(_flat(second["metrics"]))
    for name in mine.keys() & theirs.keys():
        if not any(word in name.lower() for word in NOT_COMPARED):
            yield Moved(name, mine[name], theirs[name], _errors_of(name, first, second))


def _errors_of(name: str, first: dict, second: dict) -> float | None:
    """Difference of two accuracies in its own standard errors."""
    if name not in first["hits"] or name not in second["hits"]:
        return None
    return standard_errors(*(accuracy(unpack(entry["hits"][name])) for entry in (first, second)))


def standard_errors(a: Measured, b: Measured) -> float | None:
    """|a - b| over the standard error that the test images give it; None where they are not known."""
    if a.value == b.value:
        return 0.0
    if a.images is None or b.images is None or len(a.images) == len(b.images):
        variance = _chance(a - b)
    else:  # other test images: two draws, nothing to pair
        variance = _chance(a) + _chance(b)
    return abs(a.value - b.value) / math.sqrt(variance) if variance else None


def _chance(x: Measured) -> float:
    """The variance that the test images give a value."""
    return x.variance + (x.images.var(ddof=1) / len(x.images) if x.images is not None else 0.0)


def _speaks_for(effect: Effect) -> bool:
    d = effect.distance.value
    return d > 0 if effect.within is None else abs(d) <= effect.within


def _flips(criterion: Criterion, first: dict, second: dict) -> Iterator[Flip]:
    try:
        a, b = (criterion.effects(Run(entry)) for entry in (first, second))
    except Missing:
        return
    for part in a.keys() & b.keys():
        if _speaks_for(a[part]) != _speaks_for(b[part]):
            x, y = a[part].distance, b[part].distance
            yield Flip(criterion.claim, part, x.value, y.value, standard_errors(x, y))


def _differing(first: dict, second: dict) -> dict[str, tuple[Any, Any]]:
    """Machine, packages, inputs, parameters and fingerprint, where they differ."""
    found = {}
    for name in ("parameters", "inputs"):
        for key in sorted(first[name].keys() | second[name].keys()):
            found[f"{name}: {key}"] = first[name].get(key), second[name].get(key)
    for name in ("machine", "packages"):
        mine, theirs = (entry["provenance"].get(name) or {} for entry in (first, second))
        for key in sorted(mine.keys() | theirs.keys()):
            found[f"{name}: {key}"] = mine.get(key), theirs.get(key)
    found["fingerprint"] = first["fingerprint"], second["fingerprint"]
    return {key: pair for key, pair in found.items() if pair[0] != pair[1]}
