"""The network that `datafree compress` wrote: its structure from its report, its values from its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .config import Strict, validate
from .core import quantized
from .core.graph import fold_all, trace
from .errors import DataFreeError
from .networks.weights import load_state, read_state, structure_of
from .networks.zoo import build_network
from .papers.frandi import compression as frandi
from .papers.frandi import quantization as frandi_quantization
from .papers.knowledge_within import calibration
from .papers.layerwise import pruning
from .papers.layerwise import quantization as layerwise
from .papers.udfc import compression as udfc

State = dict[str, torch.Tensor]


def _rounded(model: nn.Module, config: Strict, report: dict, state: State) -> nn.Module:
    return quantized.quantized(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )


def _on_levels(model: nn.Module, config: Strict, report: dict, state: State) -> nn.Module:
    graph = trace(model)
    return layerwise.with_levels(layerwise.prepare(model, graph, config)[0], graph, config)


def _fused(model: nn.Module, config: Strict, report: dict, state: State) -> nn.Module:
    return fold_all(model)


def _thinner(model: nn.Module, config: Strict, report: dict, state: State) -> nn.Module:
    """The same modules with as many channels as the weights have."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if getattr(module, leaf, None) is None:  # a repair added it
            setattr(module, leaf, nn.Parameter(torch.empty_like(value), value.is_floating_point()))
        elif getattr(module, leaf).shape != value.shape:
            getattr(module, leaf).data = torch.empty_like(value)
        if isinstance(module, nn.Conv2d) and leaf == "weight":
            module.groups = module.groups if module.groups == 1 else len(value)
            module.out_channels, module.in_channels = len(value), value.shape[1] * module.groups
    return model


def _split_or_masked(model: nn.Module, config: Strict, report: dict, state: State) -> nn.Module:
    kind = frandi.COMPRESSORS[config.compressor]
    return kind(model, tuple(report["shape"])).network(report["ranks"])


class Method(NamedTuple):
    """A configuration, what makes a network of the compressed structure, and the method in a line."""

    config: type[Strict]
    structure: Callable[[nn.Module, Strict, dict, State], nn.Module]
    about: str


METHODS = {
    "knowledge_within": Method(
        calibration.KnowledgeWithin,
        _rounded,
        "quantise; calibrate and distil on images that BatchNorm's statistics make (The Knowledge Within)",
    ),
    "layer_wise": Method(
        layerwise.LayerWise,
        _on_levels,
        "quantise; equalise, absorb, correct, ranges from imitated inputs (Layer-Wise Data-Free CNN Compression)",
    ),
    "layer_wise_pruning": Method(
        pruning.LayerWisePruning,
        _fused,
        "prune weights; thresholds learnt layer by layer (Layer-Wise Data-Free CNN Compression)",
    ),
    "udfc": Method(
        udfc.UDFC,
        _thinner,
        "prune channels, quantise weights; the next layer repairs the damage in closed form (UDFC)",
    ),
    "frandi": Method(
        frandi.FRanDI,
        _split_or_masked,
        "split convolutions or prune weights; ranks by Output Discrepancy, features regressed (FRanDI)",
    ),
    "frandi_quantization": Method(
        frandi_quantization.FRanDIQuantization, _rounded, "quantise; features regressed on synthetic images (FRanDI)"
    ),
}
"""Name on the command line -> configuration and structure."""


def read_report(path: Path) -> dict:
    """A report of `datafree compress`; DataFreeError where it is none."""
    try:
        report = json.loads(Path(path).read_text())
        report["config"].items(), report.setdefault("method", "KnowledgeWithin")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataFreeError(f"'{path}' is not a report of `datafree compress`.") from None
    return report


def compressed(name: str, weights: Path | None, path: Path) -> nn.Module:
    """The compressed network `name`, in evaluation mode, from the two files that `datafree compress` wrote."""
    if weights is None or not Path(path).is_file():
        raise DataFreeError(
            "give --weights OUT.safetensors together with --report OUT.json, as `datafree compress` wrote them."
        )
    report = read_report(path)
    method = next((m for m in METHODS.values() if m.config.__name__ == report["method"]), None)
    if method is None:
        raise DataFreeError(f"'{path}' names a method '{report['method']}' that is not known.")
    config = validate(method.config, report["config"], f"'{path}'")
    state = read_state(weights)
    try:
        student = method.structure(build_network(name, **structure_of(name, state)), config, report, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFreeError(f"'{path}' does not describe what is in '{weights}' ({error}).") from None
    return load_state(student, state, f"'{weights}'").eval()
