"""UDFC: each criterion against a made-up run that has what the claim says, and against runs that lack a part of it."""

import numpy as np
import pytest
from criterion_cases import changed, check

from datafree.evidence import claims
from datafree.evidence.criteria import CRITERIA, Missing, Run, udfc
from datafree.evidence.ledger import not_testable
from datafree.evidence.measured import pack

NETWORKS = ("resnet20", "slim_vgg", "mobilenet_v2_small", "resnet56 of CIFAR-100")

METRICS = {
    "shrunk": {
        "slim_vgg": {
            "FLOPs removed, %": 71.0, "times less memory": 28.2, "top1": {"float": 93.0, "closed form": 92.7},
        },
    },
    "procedure": {"forward passes": 0, "images": 0, "same result twice": True},
    "sizes": [
        {"network": "float", "parameters": 1000, "kB": 4.0},
        {"network": "50 % pruned", "parameters": 500, "kB": 2.0},
        {"network": "50 % pruned, 6 bit", "parameters": 500, "kB": 0.4},
    ],
    "closed_form_check": {"largest difference from a numerical minimiser": 1e-15},
    "map_errors": {
        "30 % pruned": {"no repair": [0.2, 0.1], "closed form": [0.1, 0.05]},
        "3 bit": {"no repair": [0.1, 0.1], "closed form": [0.05, 0.06]},
    },
    "orders": {"closed form": {"at once": 80.0, "prune, then quantise": 78.0, "quantise, then prune": 77.0}},
    "seconds": {"making the BNS images": 60.0, "BNS images": 1.0, "closed form": 0.1},
    "networks_30": {
        name: {"no repair": 60.0, "closed form": 70.0} for name in NETWORKS
    },
    "top1_by_share": {"shares": [0.3, 0.5], "by l2 norm": {"no repair": [60.0, 20.0], "closed form": [70.0, 40.0]}},
    "top1_by_bits": {"bits": [4, 3], "per channel": {"no repair": [90.0, 80.0], "closed form": [90.5, 82.0]}},
    "pruned_30_6bit": {"top1": {"no repair": 58.0, "closed form": 68.0}},
}  # fmt: skip

# claim -> changes (path, value) of the run above, each of which takes a part of the claim away
WRONG = {
    "ud-c02": [("shrunk", "slim_vgg", "top1", "closed form", 90.0)],
    "ud-c03": [
        ("procedure", "forward passes", 3),
        ("procedure", "same result twice", False),
        ("sizes", 2, "parameters", 1000),
        ("sizes", 2, "kB", 2.0),
    ],
    "ud-c04": [("closed_form_check", "largest difference from a numerical minimiser", 1e-4)],
    "ud-c05": [("map_errors", "30 % pruned", "closed form", [0.1, 0.3])],
    "ud-c06": [
        ("map_errors", "30 % pruned", "closed form", [0.1, 0.3]),
        ("map_errors", "3 bit", "closed form", [0.2, 0.1]),
    ],
    "ud-c07": [
        ("map_errors", "30 % pruned", "closed form", [0.1, 0.2]),
        ("map_errors", "3 bit", "closed form", [0.2, 0.1]),
    ],
    "ud-c08": [
        ("orders", "closed form", "prune, then quantise", 81.0),
        ("orders", "closed form", "quantise, then prune", 81.0),
    ],
    "ud-c09": [("seconds", "closed form", 100.0)],
    "ud-c10": [("networks_30", name, "closed form", 50.0) for name in NETWORKS],
    "ud-c11": [
        ("top1_by_share", "by l2 norm", "closed form", 1, 10.0),
        ("top1_by_bits", "per channel", "closed form", 0, 80.0),
        ("pruned_30_6bit", "top1", "closed form", 50.0),
        *(("networks_30", name, "closed form", 50.0) for name in NETWORKS[1:]),
        ("top1_by_share", "by l2 norm", "closed form", 0, 10.0),
        ("top1_by_bits", "per channel", "closed form", 1, 70.0),
    ],
}

MINE = {claim: found for claim, found in CRITERIA.items() if claim.startswith("ud-")}


def run(*change, hits=None):
    """A run of the chapter with one value changed."""
    metrics = changed(METRICS, *change)
    parameters = {"model": "resnet20", "vgg": "slim_vgg", "second": NETWORKS[3], "test_images": 10_000}
    return Run({"seed": 0, "profile": "reduced", "parameters": parameters, "metrics": metrics, "hits": hits or {}})


@pytest.mark.parametrize("claim", sorted(MINE))
def test_a_run_passes_and_every_part_can_fail(claim):
    check(MINE[claim], run(), [run(*change) for change in WRONG[claim]])


def test_every_claim_has_a_criterion_or_a_reason():
    ids = {claim for claim in claims.claims() if claim.startswith("ud-")}
    assert ids and ids == set(MINE) | (ids & set(not_testable()))
    assert set(WRONG) == set(MINE)


def test_all_say_that_the_derivation_is_ours():
    assert all(udfc.OURS in found.stand_in for found in MINE.values())


def test_a_network_that_was_compressed_less_says_nothing():
    with pytest.raises(Missing):
        MINE["ud-c02"].effects(run("shrunk", "slim_vgg", "times less memory", 20.0))


def test_networks_are_compared_image_by_image():
    without = np.arange(1000) % 5 > 0
    hits = {"orders/closed form/at once": pack(without | (np.arange(1000) % 10 == 0))}
    hits["orders/closed form/prune, then quantise"] = pack(without)
    lead = MINE["ud-c08"].effects(run(hits=hits))["over prune, then quantise"].distance
    assert lead.value == pytest.approx(10) and lead.images.std() == pytest.approx(30)
