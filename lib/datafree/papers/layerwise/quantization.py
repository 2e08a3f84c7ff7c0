"""Layer-Wise Data-Free CNN Compression, section III-C: ranges by search, and quantisation without data or training.

The order of steps. The quantiser (eqs. 13 and 14) is `datafree.core.quantizer` without zero on the grid, the search
of figure 4 `datafree.core.range_search`.
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from ...baselines import dfq
from ...config import Strict
from ...core import observers, quantized, quantizer
from ...core.batchnorm import NamedMoments
from ...core.graph import Feed, Graph, fold_all, put_module, trace
from ...core.register import Result, method
from ...networks.blocks import CappedReLU, normalization
from . import equalization, generated_inputs


class LayerWise(Strict):
    """Settings of quantisation layer by layer. 'Not given' marks values that the paper leaves out."""

    weight_bits: int = Field(8, ge=2, le=16, description="b of weights (table I: 8 to 4)")
    act_bits: int = Field(8, ge=2, le=16, description="b of layer inputs (table I: the same, as far as stated)")
    equalize: bool = Field(True, description="AFCLE before anything else (section III-A)")
    absorb: bool = Field(True, description="bias absorption of DFQ (section III-C)")
    correct: bool = Field(True, description="bias correction of DFQ (section III-C)")
    ranges: Literal["search", "six_sigma", "extremes"] = Field(
        "search", description="of layer inputs: figure 4, DFQ's six deviations, or the extremes of imitated inputs"
    )
    grid: int = Field(100, ge=1, le=1000, description="N of figure 4")
    samples: int = Field(2000, ge=10, le=1_000_000, description="imitated inputs a layer (figure 4: batch 2000)")
    sums: Literal["rounded", "float"] = Field(
        "rounded",
        description="what additions put out: rounded, so that skip paths carry levels too (section III-C), or float",
    )
    inputs: Literal["before_buffers", "behind_buffers", "caps"] = Field(
        "before_buffers",
        description="where a layer with buffers rounds its input: before them, behind them, or, around ReLU6, with a cap a "
        "channel in place of buffers, which integers can run; not given (ReLU needs no buffers)",
    )
    first: Literal["normal", "pixels"] = Field(
        "normal",
        description="input of the network: N(0, 1) (section III-B), or what normalised pixels can be; not in the paper",
    )
    per_channel: bool = Field(False, description="a range for each output channel of a weight; the paper: per tensor")
    seed: int = Field(0, ge=0)


def _input_of(
    graph: Graph, name: str, moments: NamedMoments, v_in: torch.Tensor | None, config: LayerWise
) -> torch.Tensor:
    """Imitated input of a layer, behind v_in: as values are independent from place to place, one place an input will do."""
    generator = torch.Generator().manual_seed(config.seed)
    x = generated_inputs.layer_input(graph, name, moments, (config.samples, 1, 1), generator)
    return x if v_in is None else x * v_in.view(1, -1, *[1] * (x.ndim - 2))


def _limits(
    graph: Graph, name: str, moments: NamedMoments, v_in: torch.Tensor | None, config: LayerWise
) -> quantizer.Limits:
    if config.ranges == "six_sigma":
        return dfq.input_range(graph.feeding(name), moments, graph.layer(name).inputs, v_in)
    return _observed(_input_of(graph, name, moments, v_in, config), config)


def _observed(x: torch.Tensor, config: LayerWise) -> quantizer.Limits:
    observer = OBSERVERS[config.ranges](config)
    observer.observe(x)
    return observer.range()


def _limits_of_sum(feed: Feed, moments: NamedMoments, config: LayerWise) -> quantizer.Limits:
    if config.ranges == "six_sigma":
        low, high = dfq.six_sigma_range(feed, moments, 0)
        return low.amin(), high.amax()
    generator = torch.Generator().manual_seed(config.seed)
    return _observed(generated_inputs.imitated(feed, moments, (config.samples, 1, 1), generator), config)


OBSERVERS = {
    "search": lambda config: observers.ExactSearchObserver(config.act_bits, config.grid),
    "extremes": lambda config: observers.MinMaxObserver(config.act_bits),
}
"""Observers of imitated inputs."""


def pixel_limits(model: nn.Module) -> quantizer.Limits:
    """Ends of what the first layer can receive: pixels lie in [0, 1], and the normalisation is known."""
    mean, std = normalization(model)
    return (-mean / std).min(), ((1 - mean) / std).max()


@torch.no_grad()
def set_ranges(student: nn.Module, graph: Graph, moments: NamedMoments, config: LayerWise) -> None:
    """Range of every layer's input and of every rounded sum, in place; no image and no gradient."""
    if config.sums == "rounded":
        for k, feed in enumerate(graph.sums()):
            student.get_submodule(f"sums.{k}").set_range(*_limits_of_sum(feed, moments, config))
    for layer in graph.layers:
        quantised, module = quantized.quantized_layer(student, layer.name), student.get_submodule(layer.name)
        v_in = getattr(module, "v_in", None)  # of buffers before the rounding; inside it they do not matter
        if config.first == "pixels" and graph.feeding(layer.name).kind == "input":
            quantised.set_range(*pixel_limits(student))
        else:
            quantised.set_range(*_limits(graph, layer.name, moments, v_in, config))


def rounded(model: nn.Module, graph: Graph, config: LayerWise) -> nn.Module:
    """A copy with weights rounded, one range a tensor from end to end (Layer-Wise Data-Free CNN Compression, section III-C).

    Ranges of inputs are still to be set. A layer with buffers lies with them inside the `QuantizedLayer` (its input is
    rounded as it comes), or, with inputs='behind_buffers', only the layer itself does (its input is scaled first).
    """
    names = []
    for layer in graph.layers:
        buffered = isinstance(model.get_submodule(layer.name), equalization.BufferedLayer)
        names.append(f"{layer.name}.inner" if buffered and config.inputs != "before_buffers" else layer.name)
    student = quantized.prepare(
        model, config.weight_bits, config.act_bits, per_channel=config.per_channel, zero_on_grid=False, names=names,
        sums=config.sums == "rounded",
    )  # fmt: skip
    return quantized.convert(student, inplace=True)


class Ready(NamedTuple):
    """The float network that is quantised, the moments that belong to it, and its wiring."""

    model: nn.Module
    moments: NamedMoments
    graph: Graph


def equalized(model: nn.Module, graph: Graph, config: LayerWise) -> Ready:
    """Fusion, equalisation and absorption."""
    moments = generated_inputs.stored_moments(model, graph)
    if config.equalize:
        found = equalization.equalize(model, graph=graph)
        if config.inputs == "caps":
            graph, found = _with_caps(model, graph, found)
        ready, moments = found.model, generated_inputs.tracked_moments(moments, graph, found)
    else:
        ready = fold_all(model, graph)
    if config.absorb:
        ready, moments = dfq.absorb_bias(ready, graph, moments)
    return Ready(ready, moments, _with_activations_of(ready, model) if config.inputs == "caps" else graph)


def _with_caps(model: nn.Module, graph: Graph, found: equalization.Equalized) -> tuple[Graph, equalization.Equalized]:
    """Its wiring and what equalisation made of it, with caps in place of the buffers around ReLU6."""
    pairs = equalization.cappable(found)
    ready = equalization.capped(found.model, graph, found)
    left = tuple(pair for pair in found.buffered if pair not in pairs)
    found = replace(found, model=ready, plain=found.plain + pairs, buffered=left)
    graph = _with_activations_of(ready, model)
    return graph, found


def _with_activations_of(ready: nn.Module, model: nn.Module) -> Graph:
    """The wiring of `model`, so that inputs are imitated with the caps that `ready` has."""
    model = copy.deepcopy(model)
    for name, module in ready.named_modules():
        if isinstance(module, CappedReLU):
            put_module(model, name, module)
    return trace(model)


def without_ranges(model: nn.Module, config: LayerWise) -> nn.Module:
    """The equalised network on levels whose ranges are still to be set: what a compressed one is read back into."""
    ready = equalized(model, trace(model), config)
    return rounded(ready.model, ready.graph, config)


@method(
    "layer_wise",
    paper="Layer-Wise Data-Free CNN Compression",
    about="quantise; equalise, absorb, correct, ranges from imitated inputs",
    structure=without_ranges,
    needs_batchnorm=True,
)
def compress(model: nn.Module, config: LayerWise) -> Result:
    """Fuse, equalise, absorb, correct, set ranges (Layer-Wise Data-Free CNN Compression, section III-C).

    The paper sets the ranges before the correction and again after it. Here both settings are the same, because
    the imitated input of a layer depends on no weight, so they are set once.

    Ranges are what BatchNorm lets expect, so real values further off are clipped: 16 bits do not give the float network.

    Returns:
        the quantised network, and a report.
    """
    start = time.perf_counter()
    ready, moments, graph = equalized(model, trace(model), config)
    student = rounded(ready, graph, config)
    if config.correct:
        dfq.correct_biases(student, ready, graph, moments)
    set_ranges(student, graph, moments, config)
    return Result(student, {"method_seconds": time.perf_counter() - start, "not_handled": graph.problems()})
