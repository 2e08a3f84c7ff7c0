"""What every criterion has to show: a made-up run that passes, and made-up runs in which each part of it fails."""

import copy

import pytest

from datafree.evidence.criteria import Criterion, Missing, Run
from datafree.evidence.verdict import judge


def changed(metrics: dict, *change) -> dict:
    """A copy of nested metrics in which the value at a path is another: changed(m, "table", 0, "top1", 50.0)."""
    found = copy.deepcopy(metrics)
    if change:
        *path, key, value = change
        where = found
        for step in path:
            where = where[step]
        where[key] = value
    return found


def failing(criterion: Criterion, run: Run) -> set[str]:
    """The parts of a claim that lie on the wrong side of its line in this run."""
    parts = judge([criterion.effects(run)], "book", identity=True).parts
    return {part for part, (state, _) in parts.items() if state == "contradicted"}


def check(criterion: Criterion, good: Run, bad: list[Run]) -> None:
    """The good run counts and passes; each bad one fails, even thrice; every part fails in one; without metrics none counts."""
    assert criterion.check.__doc__ or criterion.statement
    assert criterion.counts(good) and failing(criterion, good) == set()
    failed = [failing(criterion, run) for run in bad]
    for run, parts in zip(bad, failed, strict=True):
        thrice = judge([criterion.effects(run)] * 3, "book", criterion.identity)
        assert parts and thrice.state not in ("reproduced", "identity"), run.record["metrics"]
    assert set.union(*failed) == set(criterion.effects(good))
    with pytest.raises(Missing):
        criterion.effects(Run(dict(good.record) | {"metrics": {}, "hits": {}}))
