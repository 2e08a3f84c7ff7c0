"""What each claim needs: one pure function a claim, in a file a paper, written from the claim's own words.

    @criterion("kw-c17", chapter="02_kw_calibration", unit="points", tolerance=0.2, why="the claim's own number")
    def synthetic_calibrates_like_real(run):
        '''Section 4.2: calibration on synthetic images is within 0.2 points of real ones at 4w8a.'''
        real = run.accuracy("top1", "4w8a, 8-bit edges", "real")
        return {s: within(run.accuracy("top1", "4w8a, 8-bit edges", s), real, 0.2) for s in ("BNS", "G")}

A criterion reads the metrics of one run and measures from the line that the claim draws; `evidence.verdict` judges
over all runs. Nothing is run for it, so a changed tolerance changes a verdict at once, and git shows when.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...config import suggestion
from ...errors import DataFreeError
from ..fingerprint import is_stale
from ..measured import Measured, accuracy, accuracy_without_images, mean, unpack
from ..verdict import Effect, above, below, within

__all__ = [
    "CRITERIA",
    "Criterion",
    "Missing",
    "Run",
    "above",
    "below",
    "criterion",
    "criterion_of",
    "load",
    "mean",
    "within",
]


class Missing(DataFreeError):
    """A run does not hold what a criterion reads; it does not count for that claim."""


@dataclass(frozen=True)
class Run:
    """One record as a criterion sees it."""

    record: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return self.record["seed"]

    @property
    def profile(self) -> str:
        return self.record["profile"]

    def parameter(self, name: str) -> Any:
        """A parameter of the run."""
        if name not in self.record["parameters"]:
            raise Missing(f"the run has no parameter '{name}'.")
        return self.record["parameters"][name]

    def metric(self, *path: str | int) -> Any:
        """A value of the record's metrics: `run.metric("top1", "4w4a", "BNS")`."""
        value: Any = self.record["metrics"]
        for k, key in enumerate(path):
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise Missing(f"the run has no metric '{' / '.join(map(str, path[: k + 1]))}'.") from None
        return value

    def accuracy(self, *path: str | int) -> Measured:
        """A top-1 accuracy in percent with its test images; a list of repetitions is averaged.

        Records that kept no images give the variance of a binomial share in their place.
        """
        key = "/".join(map(str, path))
        hits = self.record.get("hits") or {}
        if key in hits:
            return accuracy(unpack(hits[key]))
        value = self.metric(*path)
        if isinstance(value, list):
            return mean(self.accuracy(*path, k) for k in range(len(value)))
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Missing(f"the metric '{key}' is no accuracy.")
        return accuracy_without_images(value, self._image_count(key))

    def _image_count(self, key: str) -> int:
        """How many test images are behind an accuracy: as the record says for a path that leads to it, or `test_images`."""
        known = self.record["metrics"].get("image_counts", {})
        near = [prefix for prefix in known if key == prefix or key.startswith(f"{prefix}/")]
        return known[max(near, key=len)] if near else self.parameter("test_images")


@dataclass(frozen=True)
class Criterion:
    """A check with all that a reader needs to judge it.

    claim: id of claims.yaml, or 'own-...' for a statement of ours, which is then given.
    unit: of the effect. tolerance, why: the slack in it and the reason for it.
    stand_in: the network or data that stands for the paper's, if any; or scale -> that, where a scale needs none.
    identity: algebra, checked exactly. needs: parameter -> least value with which a run counts beyond the scale 'book'.
    """

    claim: str
    chapter: str
    check: Callable[[Run], Any] = field(repr=False)
    unit: str
    tolerance: float | None = None
    why: str = ""
    stand_in: str | Mapping[str, str] | None = None
    identity: bool = False
    needs: Mapping[str, float] = field(default_factory=dict)
    statement: str = ""

    def effects(self, run: Run) -> dict[str, Effect]:
        """Part -> effect of one run; Missing where the run lacks something, or kept it in an earlier form of the chapter."""
        try:
            found = self.check(run)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if "fingerprint" not in run.record or not is_stale(run.record):
                raise
            raise Missing(f"its chapter keeps what is asked for in another form today ({error}).") from None
        except ZeroDivisionError:
            raise Missing(
                "a share of nothing was asked for: what the criterion divides by is zero in this run."
            ) from None
        return {"": found} if isinstance(found, Effect) else dict(found)

    def stand_in_at(self, scale: str | None) -> str | None:
        """What stands for the paper's network or data at a scale."""
        return self.stand_in.get(scale or "") if isinstance(self.stand_in, Mapping) else self.stand_in

    def counts(self, run: Run) -> bool:
        """Whether a run is long enough for its scale."""
        return run.profile == "book" or all(run.parameter(name) >= least for name, least in self.needs.items())


CRITERIA: dict[str, Criterion] = {}
"""Claim id -> criterion, filled by the modules of this package."""


def criterion(
    claim: str, *, chapter: str, unit: str, tolerance: float | None = None, why: str = "",
    stand_in: str | Mapping[str, str] | None = None,
    identity: bool = False, needs: Mapping[str, float] | None = None, statement: str = "",
) -> Callable[[Callable], Callable]:  # fmt: skip
    """Register a function of one run as the criterion of a claim."""
    if claim in CRITERIA:
        raise DataFreeError(f"claim '{claim}' has two criteria; keep one.")
    if tolerance is not None and not why:
        raise DataFreeError(f"the criterion of '{claim}' has a tolerance without a reason; say why.")
    if claim.startswith("own-") != bool(statement):
        raise DataFreeError(
            f"the criterion of '{claim}': give a statement for what is ours, and none for a paper's claim."
        )

    def register(check: Callable) -> Callable:
        CRITERIA[claim] = Criterion(
            claim, chapter, check, unit, tolerance, why, stand_in, identity, dict(needs or {}), statement
        )
        return check

    return register


def load() -> dict[str, Criterion]:
    """All criteria: every module of this package is imported once."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return CRITERIA


def criterion_of(claim: str) -> Criterion:
    """The criterion of a claim; DataFreeError with the nearest id where there is none."""
    known = load()
    if claim not in known:
        raise DataFreeError(f"claim '{claim}' has no criterion{suggestion(claim, known)}; the ledger lists all claims.")
    return known[claim]
