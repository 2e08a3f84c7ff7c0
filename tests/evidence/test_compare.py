"""Two records side by side."""

import json

import numpy as np
import pytest
from conftest import RECORDED, leave_record, record_of

from datafree import files
from datafree.errors import DataFreeError
from datafree.evidence import compare as comparison
from datafree.evidence.compare import compare, lines, standard_errors
from datafree.evidence.criteria import above
from datafree.evidence.measured import accuracy, pack


def entry(right, other, **changes):
    """A record of two networks, of which this says which images each has right."""
    metrics = {"top1": {"ours": 100 * float(np.mean(right)), "theirs": 100 * float(np.mean(other))}, "seconds": 1.0}
    changes = {"provenance": {"machine": {"threads": 1}, "packages": {}}, "inputs": {"w": "1"}} | changes
    return record_of(
        changes.pop("metrics", metrics), hits={"top1/ours": pack(right), "top1/theirs": pack(other)}, **changes
    )


@pytest.fixture
def claim(register):
    """A criterion of our own making, alone in the register."""

    @register("ud-c01")
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


# One thread against two


def on_threads(count, right, other):
    return entry(right, other, provenance={"machine": {"threads": count}, "packages": {}})


@pytest.mark.parametrize("seed", range(8))
def test_a_run_on_another_number_of_threads_flips_nothing_beyond_noise(claim, seed):
    """Another order of summation moves a few images near the border; a lead so small that it turns is within noise."""
    ours, theirs = drawn(0.8, seed), drawn(0.8, seed + 100)
    moved = [right.copy() for right in (ours, theirs)]
    for k, right in enumerate(moved):
        border = np.random.default_rng(seed + 200 + k).choice(len(right), 5, replace=False)
        right[border] = ~right[border]
    found = compare(on_threads(1, ours, theirs), on_threads(2, *moved))
    assert found.agrees and found.differs == {"machine: threads": (1, 2)}


def test_a_lead_that_turns_with_the_threads_is_a_flip_within_noise(claim):
    ours, theirs = drawn(0.8, 0), drawn(0.8, 0)
    ours[np.flatnonzero(~ours)[:1]] = True
    turned = theirs.copy()
    turned[np.flatnonzero(turned)[:1]] = False
    found = compare(on_threads(1, ours, theirs), on_threads(2, turned, theirs))
    (flip,) = found.flips
    assert flip.first > 0 > flip.second and not flip.beyond_noise and found.agrees
    assert "within noise" in str(flip)


def test_a_flip_of_which_no_chance_is_known_counts_as_one(register):
    @register("ud-c01")
    def shorter(run):
        return above(1.0, run.metric("length"))

    found = compare(record_of({"length": 0.9}), record_of({"length": 1.1}))
    assert not found.agrees and "chance unknown" in str(found.flips[0])


# What is said


def test_other_images_are_two_draws():
    right, other = drawn(0.9, 0), drawn(0.8, 1, 400)
    expected = (
        100 * abs(right.mean() - other.mean()) / np.sqrt(100**2 * (right.var(ddof=1) / 1000 + other.var(ddof=1) / 400))
    )
    assert standard_errors(accuracy(right), accuracy(other)) == pytest.approx(expected, rel=0.01)


def test_the_largest_differences_come_first_in_standard_errors(claim):
    metrics = {"a": 1.0, "b": [2.0] * 20}
    first = entry(drawn(0.9, 0), drawn(0.6, 1), metrics={"top1": {"ours": 90.0, "theirs": 60.0}} | metrics)
    other = {"top1": {"ours": 50.0, "theirs": 60.0}, "a": 3.0, "b": [2.5] * 20}
    found = compare(first, entry(drawn(0.5, 2), drawn(0.6, 1), metrics=other))
    assert found.moved[0].name == "top1/ours" and found.moved[1].name == "a", "known chance first, then by share"
    said = lines(found)
    assert sum(line.startswith("  b/") for line in said) == 8 and "(10 of 22)" in "".join(said)


def test_costs_are_not_compared(claim):
    right = drawn(0.8, 0)
    slow = entry(right, right)
    slow["metrics"]["seconds"] = 99.0
    assert not compare(entry(right, right), slow).moved


@pytest.fixture
def two(places, claim):
    """A committed record, and a fresh one that says the contrary."""
    good, poor = drawn(0.9, 0), drawn(0.5, 1)
    for fresh, (ours, theirs) in enumerate([(good, poor), (poor, good)]):
        content = entry(ours, theirs)
        leave_record(content["metrics"], fresh=bool(fresh), hits=content["hits"])
    return [folder / "book" / RECORDED / "seed0.json" for folder in (files.RECORDS, files.BUILD / "records")]


def test_the_command_takes_a_notebook_or_files_and_fails_on_a_flip(run_cli, two):
    committed, fresh = two
    outputs = [run_cli("compare", *arguments) for arguments in ((RECORDED,), (committed, fresh), (fresh,))]
    assert {code for code, _, _ in outputs} == {1} and len({out for _, out, _ in outputs}) == 1
    assert "flips: 1, beyond noise 1" in outputs[0][1] and "ud-c01: +" in outputs[0][1]
    code, out, _ = run_cli("compare", committed, committed)
    assert code == 0 and "0 differ" in out


@pytest.mark.parametrize(
    "arguments", [["01_no"], [RECORDED, "--seed", "3"], ["no.json"], [RECORDED, "--profile", "paper"]]
)
def test_what_cannot_be_compared_is_one_sentence(run_cli, two, arguments):
    code, out, err = run_cli("compare", *arguments)
    assert code == 2 and not out and err.startswith("datafree: ") and err.count("\n") == 1


def test_an_edited_record_is_not_compared(run_cli, two):
    content = json.loads(two[1].read_text())
    content["metrics"]["top1"]["ours"] = 99.0
    two[1].write_text(json.dumps(content))
    code, _, err = run_cli("compare", RECORDED)
    assert code == 2 and "digest does not fit" in err


def test_verify_runs_the_chapter_of_a_claim_and_compares(run_cli, two, monkeypatch):
    asked, again = [], {"record": two[0]}

    def run_notebook(name, profile, seed, out, record, **_):
        asked.append((name, profile, seed))
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(again["record"].read_text())
        return out, record

    monkeypatch.setattr("datafree.book.run.run_notebook", run_notebook)
    assert run_cli("ledger", "verify", "ud-c01")[0] == 0 and asked == [(RECORDED, "book", 0)]
    again["record"] = two[1]
    code, out, _ = run_cli("ledger", "verify", "ud-c01")
    assert code == 1 and "beyond noise 1" in out
    code, _, err = run_cli("ledger", "verify", "ud-c02")
    assert code == 2 and "did you mean 'ud-c01'" in err and len(asked) == 2
    code, _, err = run_cli("ledger", "verify", "ud-c01", "--profile", "reduced", "--seed", 2)
    assert code == 2 and "no committed record" in err and "profile reduced, seed 2" in err
    assert comparison.committed(RECORDED)["metrics"] == json.loads(two[0].read_text())["metrics"], "nothing is replaced"
