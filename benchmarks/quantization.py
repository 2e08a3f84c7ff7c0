"""Ranges, equalisation and rounding, beside the double loop, AIMET and the bare layer."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from datafree import torchvision_shim
from datafree.baselines.adaround import AdaRoundConfig, round_adaptively
from datafree.core import quantized
from datafree.core.graph import fold_all, trace
from datafree.core.range_search import search_range, search_range_by_loops
from datafree.networks.classifiers import torchvision_models
from datafree.networks.zoo import build_network
from datafree.papers.knowledge_within.calibration import KnowledgeWithin, calibrate
from datafree.papers.layerwise.equalization import afcle_step, equalize

from . import networks, peers
from .harness import Sides, case, furthest

GROUP = "Quantisation"
FEW, WHOLE = 2, 100
"""Ends of the range on each side: those that the double loop is timed with, and those that are asked for."""


def range_search(bits: int) -> Sides:
    x = torch.randn(2000, 64, 8, 8)
    return Sides(partial(search_range, x, bits, WHOLE), partial(search_range_by_loops, x, bits, FEW))


for _bits in (8, 4):
    case(
        f"range search, {_bits} bits", group=GROUP, share=(FEW / WHOLE) ** 2,
        ours=f"the best of {WHOLE**2} ranges by sums ({_bits} bits, 2000 x 64 x 8 x 8)",
        theirs="a double loop that quantises for each",
        note="That both find the same range is tested, on smaller tensors.",
    )(partial(range_search, _bits))  # fmt: skip


@case(
    "equalisation over sweeps on weights", group=GROUP, ours="cross-layer equalisation of MobileNetV2, on ranges",
    theirs="the same sweeps on the weights themselves",
)  # fmt: skip
def equalization() -> Sides:
    net = build_network("mobilenet_v2").eval()
    wires = trace(net)
    sweeps = len(equalize(net, graph=wires).mean_scale)

    def theirs():
        folded = fold_all(net, wires)
        for _ in range(sweeps):
            for pair in wires.neighbours():
                afcle_step(folded.get_submodule(pair.first), folded.get_submodule(pair.last))
        return folded

    def difference(ours, folded):
        return max(furthest(_weight(ours.model, layer.name), _weight(folded, layer.name)) for layer in wires.layers)

    return Sides(partial(equalize, net, graph=wires), theirs, difference=difference)


def _weight(net: nn.Module, name: str) -> torch.Tensor:
    """Of a layer, within its buffers if it has any."""
    layer = net.get_submodule(name)
    return getattr(layer, "inner", layer).weight.detach()


@case(
    "equalisation over AIMET", group=GROUP, ours="fold and equalise MobileNetV2, tracing included",
    theirs="equalize_model of aimet-torch", needs="aimet_torch",
    note="Ours sweeps until the scales settle; AIMET goes over the pairs once, and absorbs high biases too.",
)  # fmt: skip
def equalization_of_aimet() -> Sides:
    torchvision_shim.install()
    from aimet_torch.cross_layer_equalization import equalize_model

    net = torchvision_models().get_model("mobilenet_v2", weights=None).eval()
    theirs = partial(equalize_model, dummy_input=torch.rand(1, 3, 224, 224))
    return Sides(equalize, theirs, fresh=partial(copy.deepcopy, net))


@case(
    "AdaRound step over the bare layer", group=GROUP, ours="a step of adaptive rounding (64 x 64 x 3 x 3, 32 inputs)",
    theirs="the layer's response with a rounded weight and its gradient, nothing else",
)  # fmt: skip
def adaround() -> Sides:
    layer, x, steps = nn.Conv2d(64, 64, 3, bias=False), torch.rand(256, 64, 3, 3), 200
    bare = peers.rounding_step(layer, layer.weight.detach(), x[:32], 4)
    return Sides(
        partial(round_adaptively, layer, x, 4, AdaRoundConfig(steps=steps)), lambda: [bare() for _ in range(steps)], times=steps
    )  # fmt: skip


@case(
    "ranges for four widths", group=GROUP, ours="calibrated once, the ranges serve four widths (ResNet-20, batch 128)",
    theirs="calibrated once a width",
)  # fmt: skip
def calibration() -> Sides:
    net, pool = build_network("resnet20").eval(), networks.noise(256)
    widths, config = [(8, 8), (4, 8), (4, 4), (2, 4)], KnowledgeWithin(steps=1, batch=128)
    student = quantized.prepare(net, 8, 8)

    def ours():
        calibrate(student, pool, config)
        for pair in widths:
            quantized.set_bits(student, *pair)

    def theirs():
        for pair in widths:
            calibrate(quantized.prepare(net, *pair), pool, config)

    return Sides(ours, theirs)
