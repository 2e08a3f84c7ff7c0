"""FRanDI: each criterion against a made-up run that has what the claim says, and against runs that lack a part."""

import numpy as np
import pytest
from criterion_cases import changed, check

from datafree.evidence import claims
from datafree.evidence.criteria import CRITERIA, Missing, Run, frandi
from datafree.evidence.ledger import not_testable
from datafree.evidence.measured import pack

PARAMETERS = {
    "data": "cifar10", "model": "deeplabv3plus", "second": "deeplabv3plus", "batch": 64, "test_images": 10_000,
    "steps": 400, "small_steps": 200, "long_steps": 100, "rival_steps": 100,
    "synthesis_steps": 500, "small_synthesis_steps": 500, "networks": 50, "candidates": 500, "plot_reduction": 4.0,
    "reductions": "2.5 3",
}  # fmt: skip


def curve(*top1):
    return {"steps": [100 * k for k in range(len(top1))], "top1": list(top1)}


RECOVERY = {
    "statistics_loss": {"equal statistics": 0.0, "other statistics": 3.0},
    "divergence_directions": {
        "equation 1, expanded": 2.0, "KL(stored || synthetic)": 2.0, "KL(synthetic || stored)": 5.0,
    },
    "images_of_two_heads": {"largest difference of the images": 0.0},
    "synthesis_steps": {"steps": [125, 500, 1000], "top1": [70.0, 80.0, 80.2]},
    "stages": {"compressed": 30.0, "calibrated": 60.0},
    "table2_start": 60.0,
    "table1": {"none": [80.0, 81.0], "L2": [80.2, 80.6], "TV": [80.3, 80.6], "both": [80.2, 80.7]},
    "top1_by_set_size": {
        "sizes": [32, 64, 128, 256], "calibrated": [70.0, 72.0, 73.0, 73.0], "recovered": [78.0, 82.0, 82.3, 82.4],
    },
    "in_turns": 82.4,
    "table2": [
        {"loss": "FitNets", "position": "Conv", "top-1 (%)": 10.0, "first gradient": 5000.0},
        {"loss": "FitNets", "position": "BN", "top-1 (%)": 10.1, "first gradient": 4000.0},
        {"loss": "AT", "position": "Conv", "top-1 (%)": 78.0, "first gradient": 6.0},
        {"loss": "AT", "position": "BN", "top-1 (%)": 79.0, "first gradient": 6.0},
        {"loss": "OFD", "position": "BN", "top-1 (%)": 9.9, "first gradient": 3000.0},
        {"loss": "FD", "position": "Conv", "top-1 (%)": 82.0, "first gradient": 5.0},
    ],
    "levelled_losses": {"FitNets, BN": 80.0, "OFD, BN": 78.0},
    "discrepancy_of_scaled_maps": {"largest change": 0.0},
    "discrepancy_range": {"parallel": 0.0, "opposite": 2.0, "random, least": 0.9, "random, most": 1.8},
    "discrepancy_gradient": {"gradient on the normalised map": 1.0, "gradient on the map, times its norm": 0.7},
    "figure4": {
        "FR, synthetic": curve(60.0, 80.0, 85.0, 85.2, 85.3, 85.3),
        "fine-tuning, adapting": curve(60.0, 75.0, 72.0, 80.0, 83.0, 85.1),
    },
    "error_by_layer": {"compressed": [0.3, 0.5, 0.4, 0.6, 0.7]},
    "looks": {
        "synthetic": {"J_KL": 0.01, "neighbouring pixels": 0.2},
        "real": {"J_KL": 0.002, "neighbouring pixels": 0.9},
        "noise, where they start": {"J_KL": 0.7, "neighbouring pixels": 0.0},
    },
    "kept_share": {"largest difference from counted shares": 0.0},
    "full_rank": {"relative error at full rank": 1e-7},
    "even_rank": {"just below": 0.999, "just above": 1.001},
    "distortion": {"largest difference of the two sides": 1e-7},
}  # fmt: skip

ROUNDING = {
    "float_top1": 95.0,
    "table3": {"DFQ": 60.0, "ACIQ": 70.0, "ZeroQ": 88.0, "GDFQ": 89.0, "ZAQ": 90.3, "FRanDI": 93.6},
    "table9": [
        {"bits": "w3a3", "before": 88.4, "synthetic": 92.4, "real": 93.1},
        {"bits": "w4a4", "before": 93.1, "synthetic": 93.6, "real": 93.7},
        {"bits": "w4a8", "before": 94.4, "synthetic": 94.7, "real": 94.8},
        {"bits": "w8a4", "before": 94.0, "synthetic": 94.3, "real": 94.4},
    ],
    "table4": [
        {"kept": 0.8, "FR, frozen": 94.9, "fine-tuned, half the steps": 94.8},
        {"kept": 0.5, "FR, frozen": 94.6, "fine-tuned, half the steps": 94.1},
    ],
    "table6": {
        "images": 50_000, "percent": [1.0, 2.0, 5.0, 10.0, 20.0, 33.0, 50.0, 100.0], "before": 91.7,
        "seen": [50_000] * 8,
        "top1": [[91.4, 91.5], [91.5, 91.6], [91.8, 91.9], [91.9, 92.0], [92.0, 92.1], [92.2, 92.3], [92.2, 92.3], [92.3, 92.3]],
    },
    "pipeline": [
        {"compressor": "low rank", "compressed": 30.0, "recovered": 80.0},
        {"compressor": "pruned", "compressed": 50.0, "recovered": 75.0},
        {"compressor": "rounded", "compressed": 60.0, "recovered": 75.0},
    ],
}  # fmt: skip

SELECTION = {
    "table5": [
        {
            "network": f"network {k}", "compressed": 30.0, "calibrated": 60.0, "recovered": 70.0,
            "compressed top-5": 80.0, "calibrated top-5": 90.0, "recovered top-5": 95.0,
        }
        for k in range(2)
    ],
    "spearman": {"compressed": {"rho": -0.8}, "calibrated on real images": {"rho": -0.7}},
    "spearman_final": {"score not calibrated": -0.3, "score calibrated": -0.7},
    "choice": {"chosen": 70.0, "random": [60.0, 65.0], "share of FLOPs": {"chosen": 0.25, "random": [0.249, 0.25]}},
    "discrepancy_of_scaled_outputs": {"largest change": 0.0},
    "candidate_costs": {"least share": 0.2401, "largest share": 0.2599},
    "table8": {"times fewer FLOPs": 5.009},
    "search_without_training": {"candidates": 500, "steps of an optimiser": 0, "tensors changed": 0},
}  # fmt: skip

SEGMENTATION = {
    "table7": [
        {"compressed": 12.0, "calibrated": 55.0, "recovered": 66.0},
        {"compressed": 6.0, "calibrated": 38.0, "recovered": 60.0},
    ],
    "miou_by_images": {"images": [4, 8, 16, 32], "recovered": [50.0, 60.0, 66.0, 66.3]},
}

METRICS = {
    frandi.RECOVERY: RECOVERY, frandi.ROUNDING: ROUNDING, frandi.SELECTION: SELECTION, frandi.SEGMENTATION: SEGMENTATION,
}  # fmt: skip

# claim -> changes (path, value) of the run above, each of which takes a part of the claim away
WRONG = {
    "fr-c01": [("statistics_loss", "equal statistics", 0.1), ("statistics_loss", "other statistics", 0.0)],
    "fr-c02": [
        ("divergence_directions", "equation 1, expanded", 2.1),
        ("divergence_directions", "KL(synthetic || stored)", 2.0),
    ],
    "fr-c03": [("images_of_two_heads", "largest difference of the images", 1)],
    "fr-c04": [("synthesis_steps", "top1", 2, 83.0), ("stages", "compressed", 85.0)],
    "fr-c05": [("table1", "TV", [82.0, 82.0]), ("table1", "L2", [82.0, 82.0]), ("table1", "both", [82.0, 82.0])],
    "fr-c06": [("table1", "none", [82.0, 82.0]), ("table1", "both", [80.0, 80.0]), ("table1", "TV", [79.0, 79.0])],
    "fr-c07": [
        ("top1_by_set_size", "recovered", 2, 85.0),
        ("top1_by_set_size", "recovered", 3, 85.0),
        ("top1_by_set_size", "calibrated", 1, 83.0),
    ],
    "fr-c10": [
        ("table2", 5, "top-1 (%)", 78.5),
        ("table2", 3, "top-1 (%)", 77.0),
        ("table2", 4, "top-1 (%)", 78.5),
        ("table2_start", 83.0),
    ],
    "fr-c11": [("table2", k, "top-1 (%)", 20.0) for k in (0, 1, 4)] + [("table2_start", 9.0)],
    "fr-c12": [("table2", k, "first gradient", 40.0) for k in (0, 1, 4)]
    + [("levelled_losses", n, 10.0) for n in ("FitNets, BN", "OFD, BN")],
    "fr-c13": [("discrepancy_of_scaled_maps", "largest change", 0.01)],
    "fr-c14": [
        ("discrepancy_range", "parallel", 0.1),
        ("discrepancy_range", "opposite", 1.5),
        ("discrepancy_range", "random, least", 0.0),
        ("discrepancy_range", "random, most", 2.1),
    ],
    "fr-c15": [
        ("discrepancy_gradient", "gradient on the normalised map", 2.0),
        ("discrepancy_gradient", "gradient on the map, times its norm", 1.1),
    ],
    "fr-c16": [("figure4", "FR, synthetic", "top1", 5, 83.0), ("figure4", "FR, synthetic", "top1", 5, 87.0)],
    "fr-c17": [
        ("figure4", "FR, synthetic", curve(60.0, 61.0, 62.0, 63.0, 64.0, 85.3)),
        ("figure4", "FR, synthetic", curve(60.0, 80.0, 75.0, 85.2, 85.3, 85.3)),
    ],
    "fr-c18": [
        ("table3", "FRanDI", 90.0),
        *(("table3", name, x) for name, x in (("ZAQ", 88.5), ("GDFQ", 87.0), ("ZeroQ", 69.0), ("ACIQ", 59.0))),
    ],
    "fr-c19": [("table3", "FRanDI", 90.0), ("table3", "FRanDI", 99.0)],
    "fr-c20": [("table9", k, source, 80.0) for k in range(4) for source in ("synthetic", "real")],
    "fr-c21": [("table9", k, "real", x) for k in range(4) for x in (91.0, 97.0)],
    "fr-c22": [("table9", 0, "real", 92.4), *(("table9", k, "real", 97.0) for k in range(4))],
    "fr-c23": [
        ("table9", 0, "synthetic", 88.6),
        ("table9", 1, "synthetic", 93.2),
        ("table9", 0, "synthetic", 99.0),
        *(("table9", k, "synthetic", 97.0) for k in (1, 2, 3)),
    ],
    "fr-c24": [
        ("table9", 2, "synthetic", 93.0),
        ("table9", 2, "real", 93.0),
        ("table9", 3, "synthetic", 93.0),
        ("table9", 3, "real", 93.0),
    ],
    "fr-c25": [("float_top1", 92.0)],
    "fr-c26": [("table4", 0, "FR, frozen", 94.0), ("table4", 1, "FR, frozen", 94.0), ("table4", 1, "FR, frozen", 96.0)],
    "fr-c27": [("table4", 1, "FR, frozen", 94.0)],
    "fr-c28": [("table5", k, name, 75.0) for k in (0, 1) for name in ("compressed", "calibrated")]
    + [("table5", k, f"{name} top-5", 99.0) for k in (0, 1) for name in ("compressed", "calibrated")],
    "fr-c32": [
        ("table6", "top1", 0, [92.0, 92.0]),
        ("table6", "top1", 1, [92.0, 92.0]),
        *(("table6", "top1", k, [91.0, 91.0]) for k in range(2, 8)),
    ],
    "fr-c33": [("table6", "top1", [[92.0]] * 8), ("table6", "top1", 7, [94.0, 94.0])],
    "fr-c34": [
        ("table6", "top1", 7, [91.0, 91.0]),
        ("table6", "top1", 7, [93.0, 93.0]),
        ("float_top1", 92.0),
        ("float_top1", 97.0),
    ],
    "fr-c35": [("table7", k, name, 70.0) for k in (0, 1) for name in ("compressed", "calibrated")],
    "fr-c36": [("table7", 1, name, 67.0) for name in ("compressed", "calibrated", "recovered")],
    "fr-c37": [
        ("table7", 1, "recovered", 80.0),
        ("table7", [{"compressed": 20.0, "calibrated": 50.0, "recovered": 60.0}] * 2),
    ],
    "fr-c38": [("miou_by_images", "recovered", 3, 70.0), ("table7", 0, "compressed", 67.0)],
    "fr-c39": [("spearman", "compressed", "rho", 0.1)],
    "fr-c40": [("spearman", "calibrated on real images", "rho", 0.1)],
    "fr-c41": [("choice", "chosen", 62.0)],
    "fr-c42": [("discrepancy_of_scaled_outputs", "largest change", 0.01)],
    "fr-c43": [("candidate_costs", "least share", 0.23), ("candidate_costs", "largest share", 0.27)],
    "fr-c44": [("kept_share", "largest difference from counted shares", 0.01)],
    "fr-c45": [("full_rank", "relative error at full rank", 0.01)],
    "fr-c46": [("even_rank", "just below", 1.001), ("even_rank", "just above", 0.999)],
    "fr-c47": [("table8", "times fewer FLOPs", 4.9)],
    "fr-c48": [("distortion", "largest difference of the two sides", 0.01)],
    "fr-c49": [("error_by_layer", "compressed", [0.7, 0.6, 0.5, 0.4])],
    "fr-c50": [("spearman_final", "score calibrated", -0.2)],
    "fr-c51": [("looks", "synthetic", "J_KL", 0.3), ("looks", "synthetic", "neighbouring pixels", 0.8)],
    "fr-c52": [("pipeline", k, "recovered", 20.0) for k in range(3)],
    "fr-c53": [
        ("figure4", "FR, synthetic", "top1", 0, 86.0),
        ("figure4", "FR, synthetic", "top1", 5, 88.0),
        ("in_turns", 85.0),
    ],
    "fr-c54": [
        ("search_without_training", name, k)
        for name, k in (("candidates", 400), ("steps of an optimiser", 1), ("tensors changed", 2))
    ],
}

MINE = {claim: found for claim, found in CRITERIA.items() if claim.startswith("fr-")}


def run(claim, *change, hits=None, **parameters):
    """A run of the claim's chapter with one value changed."""
    metrics = changed(METRICS[MINE[claim].chapter], *change)
    record = {"seed": 0, "profile": "reduced", "parameters": PARAMETERS | parameters, "metrics": metrics}
    return Run(record | {"hits": hits or {}})


@pytest.mark.parametrize("claim", sorted(MINE))
def test_a_run_passes_and_every_part_can_fail(claim):
    check(MINE[claim], run(claim), [run(claim, *change) for change in WRONG[claim]])


def test_every_claim_has_a_criterion_or_a_reason():
    ids = {claim for claim in claims.claims() if claim.startswith("fr-")}
    assert ids and ids == set(MINE) | (ids & set(not_testable()))
    assert set(WRONG) == set(MINE)


@pytest.mark.parametrize(
    ("claim", "change", "why"),
    [
        ("fr-c04", ("synthesis_steps", "steps", [4, 16, 32]), "500"),
        ("fr-c07", ("top1_by_set_size", "sizes", [8, 16, 32, 64]), "larger than one batch"),
        ("fr-c33", ("table6", "seen", [1920] * 8), "too short"),
        ("fr-c34", ("table6", "images", 500), "whole training set"),
        ("fr-c41", ("choice", "share of FLOPs", "chosen", 0.3), "cost"),
    ],
)
def test_a_run_that_cannot_tell_does_not_count(claim, change, why):
    with pytest.raises(Missing, match=why):
        MINE[claim].effects(run(claim, *change))


def test_the_number_of_deeplab_counts_for_deeplab_only():
    with pytest.raises(Missing):
        MINE["fr-c37"].effects(run("fr-c37", model="segmenter"))


@pytest.mark.parametrize("claim", [claim for claim in MINE if MINE[claim].needs])
def test_short_runs_are_demonstrations(claim):
    short = run(claim, **{name: least - 1 for name, least in MINE[claim].needs.items()})
    assert not MINE[claim].counts(short)
    assert MINE[claim].counts(Run(dict(short.record) | {"profile": "book"}))


def test_networks_are_compared_image_by_image():
    """Recovery mends one image in ten and breaks none: the difference scatters by what it mends, not by accuracies."""
    before = np.arange(1000) % 5 > 0
    after = before | (np.arange(1000) % 10 == 0)
    made = run("fr-c20", hits={"table9/0/before": pack(before), "table9/0/real": pack(after)})
    gain = MINE["fr-c20"].effects(made)["w3a3, real"].distance
    assert gain.value == pytest.approx(10) and gain.variance == 0
    assert gain.images.std() == pytest.approx(30)


def test_scenes_of_mean_iou_are_paired_where_they_are_known():
    scenes = np.linspace(60, 72, 13)
    kept = {"table7/0/calibrated": [55.0] * 13, "table7/0/recovered": list(scenes)}
    made = run("fr-c35", "miou_images", kept)
    gain = MINE["fr-c35"].effects(made)["recovered over calibrated, 2.5 times"].distance
    assert gain.value == pytest.approx(11) and gain.images == pytest.approx(scenes - 55)
