"""Our own statements: each criterion against a made-up run that has what is stated, and runs that lack a part."""

import copy

import pytest

from datafree.evidence.criteria import CRITERIA, Missing, Run, ours
from datafree.evidence.verdict import judge

METRICS = {
    "expected_against_drawn": {"drawn": [75.0, 76.0], "expected": 75.2},
    "ablation": {"global, before fusion": [88.0, 80.0], "global, fused": [87.0, 60.0]},
    "top1_by_share": {
        "shares": [0.3, 0.5, 0.7],
        "by l2 norm": {
            "closed form": [60.0, 30.0, 10.0], "Neuron Merging": [70.0, 40.0, 20.0],
            "rectified Gaussians": [80.0, 60.0, 15.0], "BNS images": [85.0, 70.0, 40.0], "real images": [86.0, 72.0, 50.0],
        },
        "by residual": {"BNS images": [86.0, 73.0, 50.0]},
    },
    "parts_at_50": {
        "rectified Gaussians, intercept only": 50.0, "and variance": 70.0,
        "BNS images, intercept only": 65.0, "and statistics aligned": 75.0,
    },
    "top1_by_bits": {"bits": [3, 2]}
    | {how: {"no repair": [80.0, 30.0], "BNS images": [85.0, 60.0]} for how in ("per channel", "per tensor")},
    "table4": [
        {
            "kept": kept, "FR, frozen": 80.0, "FR, adapting": 81.0, "fine-tuned, frozen": 80.5, "fine-tuned, adapting": 81.5,
        }
        for kept in (0.5, 0.2)
    ],
}  # fmt: skip

NORM = ("top1_by_share", "by l2 norm")

# statement -> changes (path, value) of the run above, each of which takes a part of it away
WRONG = {
    "own-expected-layer-loss": [("expected_against_drawn", "expected", 70.0)],
    "own-fusion-costs-global-pruning": [("ablation", "global, fused", [90.0, 81.0])],
    "own-gaussian": [(*NORM, rival, k, 90.0) for rival in ("closed form", "Neuron Merging") for k in (0, 1)],
    "own-images": [(*NORM, "Neuron Merging", k, 83.0) for k in (0, 1)]
    + [(*NORM, "real images", k, 90.0) for k in (0, 1)],
    "own-residual": [("top1_by_share", "by residual", "BNS images", k, 30.0) for k in range(3)],
    "own-statistics": [("parts_at_50", name, 40.0) for name in ("and variance", "and statistics aligned")],
    "own-rounding": [
        ("top1_by_bits", how, "BNS images", k, 20.0) for how in ("per channel", "per tensor") for k in (0, 1)
    ],
    "own-prune-fair": [("table4", k, f"FR, {mode}", 70.0) for k in (0, 1) for mode in ("frozen", "adapting")],
}

MINE = {name: found for name, found in CRITERIA.items() if found.check.__module__ == ours.__name__}


def run(*change, steps=400):
    """A run with one value changed."""
    metrics = copy.deepcopy(METRICS)
    if change:
        *path, key, value = change
        where = metrics
        for step in path:
            where = where[step]
        where[key] = value
    parameters = {"test_images": 10_000, "steps": steps}
    return Run({"seed": 0, "profile": "reduced", "parameters": parameters, "metrics": metrics})


def holds(name, made):
    """Whether every part lies on the statement's side of its line."""
    return judge([MINE[name].effects(made)], "book", identity=True).state == "identity"


@pytest.mark.parametrize("name", sorted(MINE))
def test_a_run_that_has_what_is_stated(name):
    assert MINE[name].statement and holds(name, run())


@pytest.mark.parametrize("name", sorted(MINE))
def test_runs_that_lack_a_part_of_it(name):
    for change in WRONG[name]:
        assert not holds(name, run(*change)), change


@pytest.mark.parametrize("name", sorted(MINE))
def test_every_part_can_fail(name):
    found = [judge([MINE[name].effects(run(*change))], "book", identity=True) for change in WRONG[name]]
    failed = {part for verdict in found for part, (state, _) in verdict.parts.items() if state == "contradicted"}
    assert failed == set(MINE[name].effects(run()))


@pytest.mark.parametrize("name", sorted(MINE))
def test_a_run_without_the_metric_does_not_count(name):
    made = run()
    made.record["metrics"].clear()
    with pytest.raises(Missing):
        MINE[name].effects(made)


def test_all_statements_are_tried():
    assert set(MINE) == set(WRONG) and all(name.startswith("own-") for name in MINE)


def test_shares_above_one_half_say_nothing():
    """Merging ahead at 70 % is outside of the statement; a run of such shares alone does not count."""
    assert holds("own-gaussian", run(*NORM, "Neuron Merging", 2, 90.0))
    with pytest.raises(Missing):
        MINE["own-gaussian"].effects(run("top1_by_share", "shares", [0.6, 0.7, 0.8]))


def test_a_short_recovery_is_a_demonstration():
    assert not MINE["own-prune-fair"].counts(run(steps=60))
