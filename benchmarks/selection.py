"""Ranks of 500 candidates by Output Discrepancy, beside one network after the other."""

from __future__ import annotations

from functools import partial

from datafree.networks.weights import load_network
from datafree.papers.frandi import compression, factorization, selection

from . import networks, peers
from .harness import Sides, case, furthest, growth
from .synthesis import no_bf16

GROUP = "Choosing ranks"
CANDIDATES, FEW, IMAGES = 500, 5, 256


def candidates(precision: str) -> Sides:
    net, pool = load_network("resnet20"), networks.noise(IMAGES)
    factors = factorization.Factorizer(net)
    rows = selection.Sampler(factors, compression.FRanDI(candidates=CANDIDATES)).rows()

    def ours():
        return selection.discrepancies(factors, rows, pool, calibrated=True, precision=precision)

    def theirs():
        few = rows[:FEW]
        return peers.scored_one_by_one(factors, few, pool.floats(), calibrated=True, bf16=precision == "bf16")

    return Sides(ours, theirs, difference=lambda a, b: furthest(a[:FEW], b))


for _precision, _when in (("float32", str), ("bf16", no_bf16)):
    case(
        f"{CANDIDATES} candidates, {_precision}", group=GROUP, share=FEW / CANDIDATES, when=_when,
        ours=f"{CANDIDATES} sets of ranks, what they share computed once (ResNet-20, {IMAGES} images, {_precision})",
        theirs="a network built, calibrated and run for each",
    )(partial(candidates, _precision))  # fmt: skip


@growth(
    "search for ranks",
    {"batch": (16, 32, 64), "depth": (8, 14, 20, 32), "width": (8, 16, 32), "image side": (16, 24, 32),
     "candidates": (25, 50, 100)},
)  # fmt: skip
def search_at(axis: str, size: int):
    net, batch, side = networks.sized(axis, size)
    factors, pool = factorization.Factorizer(net, (3, side, side)), networks.noise(batch, side)
    count = size if axis == "candidates" else 16
    config = compression.FRanDI(candidates=count, reduction=3.0, tolerance=0.05)
    rows = selection.Sampler(factors, config).rows()
    return partial(selection.discrepancies, factors, rows, pool, calibrated=True, precision="float32")
