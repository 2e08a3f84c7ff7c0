"""Closed forms of UDFC beside solving each problem anew, and beside Neuron Merging."""

from __future__ import annotations

from functools import partial

import torch

from datafree.core import pruning
from datafree.core.graph import trace
from datafree.core.metrics import top1
from datafree.data.sources import load_images
from datafree.networks.weights import load_network
from datafree.papers.udfc import compression, moment_matching
from datafree.papers.udfc.reconstruction import ALPHA1, ALPHA2, Folded, closed_form, folded

from . import peers
from .harness import Sides, case, furthest

GROUP = "Repair in closed form"


@case(
    "closed form over least squares", group=GROUP, ours="UDFC's coefficients of all layers of ResNet-20, one factor a layer",
    theirs="a least-squares problem for each channel",
)  # fmt: skip
def coefficients() -> Sides:
    net = load_network("resnet20")
    wires, problems = trace(net), []
    for pair in pruning.prunable(wires):
        whole = folded(net, wires, pair)
        gone = torch.zeros(len(whole.c), dtype=torch.bool)
        gone[pruning.kept_count(len(gone), 0.3) :] = True
        problems.append([Folded(whole.a[:, part], whole.c[part]) for part in (~gone, gone)])

    def ours():
        return [closed_form(left, lost) for left, lost in problems]

    def theirs():
        return [torch.stack([_solved(left, lost, j) for j in range(len(lost.c))], 1) for left, lost in problems]

    return Sides(ours, theirs, difference=lambda a, b: max(map(furthest, a, b)))


def _solved(left: Folded, lost: Folded, j: int) -> torch.Tensor:
    """The coefficients of one lost channel: the loss as one stacked least-squares problem."""
    eye = torch.eye(len(left.c), dtype=torch.float64)
    stacked = torch.cat([left.a, ALPHA1**0.5 * left.c[None], ALPHA2**0.5 * eye])
    wanted = torch.cat([lost.a[:, j], ALPHA1**0.5 * lost.c[j, None], torch.zeros(len(eye), dtype=torch.float64)])
    return torch.linalg.lstsq(stacked, wanted[:, None]).solution[:, 0]


@case(
    "Optimal Brain Surgeon over inverting anew", group=GROUP, ours="77 of 256 channels removed one by one, one inverse updated",
    theirs="inverse and repair computed anew at each removal",
    note="Compared are the channels that stay.",
)  # fmt: skip
def surgeon() -> Sides:
    x = torch.randn(2000, 256, dtype=torch.float64) @ torch.randn(256, 256, dtype=torch.float64)
    gram, weight = x.T @ x / len(x), torch.randn(256, 512, dtype=torch.float64)
    given = gram, weight, 256 - 77, 0.01 * gram.diagonal().mean().item()
    return Sides(
        partial(moment_matching.kept_by_obs, *given), partial(peers.removed_by_surgeon, *given), difference=furthest
    )


def udfc(repair: str, ratio: float) -> Sides:
    net, images = load_network("resnet20"), load_images("cifar10-stub", split="test")
    ways = (compression.UDFC(prune_ratio=ratio, repair=way) for way in (repair, "merging"))
    ours, theirs = (partial(compression.compress, net, config) for config in ways)
    return Sides(ours, theirs, points=lambda result: top1(result.model, images))


for _repair, _title in (("closed_form", "UDFC's closed form"), ("gaussian", "our rectified Gaussians")):
    for _ratio in (0.3, 0.5):
        case(
            f"{_title} over Neuron Merging, {_ratio:.0%} pruned", group=GROUP, theirs="Neuron Merging in the same pass",
            ours=f"{_ratio:.0%} of the channels of ResNet-20 pruned and repaired by {_title}, no image used",
        )(partial(udfc, _repair, _ratio))  # fmt: skip
