"""Our own statements: each criterion against a made-up run that has what is stated, and runs that lack a part."""

import pytest
from criterion_cases import changed, check, failing

from datafree.evidence.criteria import CRITERIA, Missing, Run, ours

SETTINGS = ("2w4a", "4w4a", "half", "split")
AHEAD = [("ways", setting, rival, 85.0) for setting in SETTINGS for rival in ("FRanDI", "UDFC")]

METRICS = {
    "expected_against_drawn": {"drawn": [75.0, 76.0], "expected": 75.2},
    "global_pruning_by_form": {
        name: {"before fusion": [88.0, 80.0], "fused": [87.0, 60.0]} for name in ("resnet56", "two", "slim_vgg")
    },
    "table": [{"network": name, "bits": 3, "ours": 50.0, "DFQ": 20.0} for name in ("resnet56", "two")],
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
    "statistics": {name: {"aligned (ours)": 80.0, "calibrated": 70.0} for name in ("whole", "2 times")},
    "table4": [
        {
            "kept": kept, "FR, frozen": 80.0, "FR, adapting": 81.0, "fine-tuned, frozen": 80.5, "fine-tuned, adapting": 81.5,
        }
        for kept in (0.5, 0.2)
    ],
    "by_bits": {
        "KW, distilled": {"w4a4": 80.0, "w3a3": 60.0}, "Layer-Wise": {"w4a4": 75.0, "w3a3": 20.0},
        "FRanDI": {"w4a4": 70.0, "w3a3": 40.0}, "real images": {"w4a4": 82.0},
    },
    "by_share": {
        "0.3": {"no image": 89.0, "and regressed": 89.5}, "0.5": {"no image": 83.0, "and regressed": 88.0},
        "0.7": {"no image": 70.0, "and regressed": 83.0},
        "moments of images": {"50% fewer": 80.0}, "closed form": {"50% fewer": 30.0},
        "Neuron Merging": {"50% fewer": 50.0}, "FRanDI, low rank": {"50% fewer": 60.0},
    },
    "top1": {"4w4a BNS": 70.0, "4w4a noise": 60.0},
    "ways": {
        setting: {"FRanDI": 70.0, "UDFC": 60.0, "one pass (ours)": 80.0, "and regressed (ours)": 81.0}
        for setting in SETTINGS
    },
    "float_top1": 90.0,
    "parts": {setting: {"alone": 20.0, "aligned": 60.0, "refitted": 80.0} for setting in SETTINGS},
    "file_kilobytes": {"float": 200.0, "8w8a": 60.0},
    "simulated": {"float": 80.0, "8w8a": 79.0},
    "onnxruntime": {"float": 80.0, "8w8a": 79.1},
}  # fmt: skip

NORM = ("top1_by_share", "by l2 norm")

# statement -> changes (path, value) of the run above, each of which takes a part of it away
WRONG = {
    "own-expected-layer-loss": [("expected_against_drawn", "expected", 70.0)],
    "own-fusion-costs-global-pruning": [
        ("global_pruning_by_form", name, "fused", [90.0, 81.0]) for name in ("resnet56", "two", "slim_vgg")
    ],
    "own-three-bits": [("table", 0, "DFQ", 45.0)],
    "own-gaussian": [(*NORM, rival, k, 90.0) for rival in ("closed form", "Neuron Merging") for k in (0, 1)],
    "own-images": [(*NORM, "Neuron Merging", k, 83.0) for k in (0, 1)]
    + [(*NORM, "real images", k, 90.0) for k in (0, 1)],
    "own-residual": [("top1_by_share", "by residual", "BNS images", k, 30.0) for k in range(3)],
    "own-statistics": [("parts_at_50", name, 40.0) for name in ("and variance", "and statistics aligned")],
    "own-rounding": [
        ("top1_by_bits", how, "BNS images", k, 20.0) for how in ("per channel", "per tensor") for k in (0, 1)
    ],
    "own-aligned": [("statistics", name, "aligned (ours)", 60.0) for name in ("whole", "2 times")],
    "own-shootout-distilled": [
        ("by_bits", method, name, 90.0) for method in ("Layer-Wise", "FRanDI") for name in ("w4a4", "w3a3")
    ],
    "own-shootout-moments": [
        ("by_share", method, "50% fewer", 85.0) for method in ("closed form", "Neuron Merging", "FRanDI, low rank")
    ],
    "own-shootout-real": [("by_bits", "real images", "w4a4", 84.0)],
    "own-one-pass": AHEAD,
    "own-one-pass-cifar100": AHEAD,
    "own-one-pass-mobilenet": AHEAD,
    "own-one-pass-taught": AHEAD,
    "own-parts": [("parts", setting, part, 10.0) for setting in SETTINGS for part in ("aligned", "refitted")],
    "own-goals": [
        ("by_share", share, way, 50.0) for share in ("0.3", "0.5", "0.7") for way in ("no image", "and regressed")
    ],
    "own-unseen-network": [("top1", "4w4a noise", 71.0)],
    "own-exported": [("onnxruntime", name, 75.0) for name in ("float", "8w8a")],
    "own-prune-fair": [("table4", k, f"FR, {mode}", 70.0) for k in (0, 1) for mode in ("frozen", "adapting")],
}

MINE = {name: found for name, found in CRITERIA.items() if found.check.__module__ == ours.__name__}


def run(*change, steps=400, model="resnet56", data="cifar10"):
    """A run with one value changed."""
    metrics = changed(METRICS, *change)
    parameters = {"test_images": 10_000, "steps": steps, "model": model, "data": data, "second": "two", "bits": "4 3"}
    return Run({"seed": 0, "profile": "reduced", "parameters": parameters, "metrics": metrics})


@pytest.mark.parametrize("name", sorted(MINE))
def test_a_run_passes_and_every_part_can_fail(name):
    model = "mobilenet_v2_small" if name.endswith("mobilenet") else "resnet56"
    own = {"model": model, "data": "cifar100" if name.endswith("cifar100") else "cifar10"}
    check(MINE[name], run(**own), [run(*change, **own) for change in WRONG[name]])


def test_all_statements_are_tried():
    assert set(MINE) == set(WRONG) and all(name.startswith("own-") for name in MINE)


def test_shares_above_one_half_say_nothing():
    """Merging ahead at 70 % is outside of the statement; a run of such shares alone does not count."""
    assert failing(MINE["own-gaussian"], run(*NORM, "Neuron Merging", 2, 90.0)) == set()
    with pytest.raises(Missing):
        MINE["own-gaussian"].effects(run("top1_by_share", "shares", [0.6, 0.7, 0.8]))


def test_a_run_without_low_rank_says_nothing_of_four_settings():
    """A MobileNetV2 has nothing to split; only the claim about it counts its runs, and no other network's."""
    three = run("ways", {name: METRICS["ways"][name] for name in SETTINGS[:3]}, model="mobilenet_v2_small")
    for name in ("one-pass", "one-pass-taught", "parts"):
        with pytest.raises(Missing, match="all four settings"):
            MINE[f"own-{name}"].effects(three)
    assert len(MINE["own-one-pass-mobilenet"].effects(three)) == 6
    with pytest.raises(Missing, match="another network"):
        MINE["own-one-pass-mobilenet"].effects(run())


def test_cifar100_is_a_matter_of_its_own():
    for name in ("one-pass", "one-pass-taught", "parts", "goals"):
        with pytest.raises(Missing, match="CIFAR-10"):
            MINE[f"own-{name}"].effects(run(data="cifar100"))
    with pytest.raises(Missing, match="other images"):
        MINE["own-one-pass-cifar100"].effects(run())


def test_a_short_recovery_is_a_demonstration():
    assert not MINE["own-prune-fair"].counts(run(steps=60))
