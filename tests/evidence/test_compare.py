"""Two records side by side."""

import numpy as np
import pytest

from datafree.errors import DataFreeError
from datafree.evidence import criteria
from datafree.evidence.compare import compare, standard_errors
from datafree.evidence.criteria import above
from datafree.evidence.measured import accuracy, pack


def entry(right, other, **changes):
    metrics = {"top1": {"ours": 100 * float(np.mean(right)), "theirs": 100 * float(np.mean(other))}, "seconds": 1.0}
    return {
        "notebook": "08_udfc", "profile": "book", "seed": 0, "parameters": {"test_images": len(right)}, "inputs": {"w": "1"},
        "provenance": {"machine": {"threads": 1}, "packages": {}}, "fingerprint": "f", "metrics": metrics,
        "hits": {"top1/ours": pack(right), "top1/theirs": pack(other)},
    } | changes  # fmt: skip


@pytest.fixture
def claim(monkeypatch):
    """A criterion of our own making, alone in the register."""
    monkeypatch.setattr(criteria, "CRITERIA", {})
    monkeypatch.setattr("datafree.evidence.compare.load", lambda: criteria.CRITERIA)

    @criteria.criterion("ud-c01", chapter="08_udfc", unit="points")
    def better(run):
        return above(run.accuracy("top1", "ours"), run.accuracy("top1", "theirs"))


def drawn(rate, seed, count=1000):
    return np.random.default_rng(seed).random(count) < rate


def test_a_record_agrees_with_itself(claim):
    record = entry(drawn(0.9, 0), drawn(0.8, 1))
    found = compare(record, record)
    assert found.agrees and not found.flips and not found.moved and not found.differs and found.same == 2


def test_a_real_flip_is_told(claim):
    found = compare(entry(drawn(0.9, 0), drawn(0.6, 1)), entry(drawn(0.6, 2), drawn(0.9, 3)))
    assert not found.agrees and found.flips[0].claim == "ud-c01" and found.flips[0].errors > 5


def test_a_flip_within_noise_is_told_apart(claim):
    a, b = drawn(0.8, 0), drawn(0.8, 0)
    b[:3] = ~b[:3]
    first, second = entry(a, b), entry(b, a)
    found = compare(first, second)
    assert found.agrees and (not found.flips or not found.flips[0].beyond_noise)


def test_differences_behind_the_numbers_are_named(claim):
    right = drawn(0.8, 0)
    other = entry(right, right, provenance={"machine": {"threads": 2}, "packages": {}}, inputs={"w": "2"})
    assert compare(entry(right, right), other).differs == {"machine: threads": (1, 2), "inputs: w": ("1", "2")}


def test_two_chapters_are_not_compared(claim):
    right = drawn(0.8, 0)
    with pytest.raises(DataFreeError, match="one chapter"):
        compare(entry(right, right), entry(right, right) | {"notebook": "09_frandi_recovery"})


def test_standard_errors_are_those_of_paired_images():
    right = drawn(0.5, 0, 400)
    better = right.copy()
    better[np.flatnonzero(~right)[:16]] = True
    assert standard_errors(accuracy(better), accuracy(right)) == pytest.approx(4 / np.sqrt(1 - 0.04), rel=0.01)
