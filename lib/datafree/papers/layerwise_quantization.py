"""Layer-Wise Data-Free CNN Compression, section III-C: ranges by search, and quantisation without data or training.

Eqs. 13 and 14, figure 4, and the order of steps. Equalisation and imitated inputs are in `layerwise`.
"""

from __future__ import annotations

import copy
import time
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from .. import dfq, quantize
from ..errors import DataFreeError
from ..graph import Graph, fold_all, trace
from ..params import Strict
from ..rangesearch import SortedValues
from . import layerwise as lw

Limits = tuple[torch.Tensor, torch.Tensor]
"""Ends (l, h) of a range: scalars for one a tensor, [O] for one a channel."""


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
    per_channel: bool = Field(False, description="a range for each output channel of a weight; the paper: per tensor")
    seed: int = Field(0, ge=0)


def to_integers(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    r"""Number of the nearest level (Layer-Wise Data-Free CNN Compression, eq. 13).

    .. math:: I = \mathrm{round}\left(\frac{\mathrm{clip}(X, l, h) - l}{(h - l) / (2^b - 1)}\right)

    Args:
        x: any shape; low, high: l and h, of shapes that broadcast with it.
    Returns:
        integers from 0 to 2^b - 1, as floats; 0 where the range has no width. Book: {ref}`lw-quantizer`.
    """
    return ((x.clamp(low, high) - low) / step_of(low, high, bits)).round_()


def from_integers(integers: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    r"""Value of a level (Layer-Wise Data-Free CNN Compression, eq. 14).

    .. math:: Q = I\, \frac{h - l}{2^b - 1} + l

    The first level is l and the last is h. Zero need not be a level. Book: {ref}`lw-quantizer`.
    """
    return integers * step_of(low, high, bits) + low


def step_of(low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """Distance of two levels, above zero even where the range has no width."""
    return ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(torch.float32).tiny)


def round_to_levels(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """Eq. 13, then eq. 14."""
    return from_integers(to_integers(x, low, high, bits), low, high, bits)


def _candidates(x_min: float, x_max: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """l and h of all pairs of figure 4, h in the outer loop; where one end is stuck at zero its loop has one turn."""
    shares = np.arange(1, n + 1) / n
    high = shares * max(x_max, 0.0) if x_max > 0 else np.zeros(1)
    low = shares * min(x_min, 0.0) if x_min < 0 else np.zeros(1)
    return np.tile(low, len(high)), np.repeat(high, len(low))


@torch.no_grad()
def search_range(x: torch.Tensor, bits: int, n: int = 100) -> Limits:
    r"""The range with the least squared error, over shrunk extremes (Layer-Wise Data-Free CNN Compression, figure 4).

    .. math:: \min_{i, j} \bigl\| X - Q(X; l_j, h_i) \bigr\|_2, \qquad
              h_i = \tfrac iN \max(x_{\max}, 0),\quad l_j = \tfrac jN \min(x_{\min}, 0)

    The same pair as `search_range_by_loops`, without its N^2 sweeps over X: see `datafree.rangesearch`.

    Args:
        x: any shape. n: N.
    Returns:
        l and h, scalars; both zero for an input that is zero throughout. Book: {ref}`lw-search`.
    """
    if not x.numel() or not torch.isfinite(x).all():
        raise DataFreeError(
            "a range was to be found for values that are NaN, infinite or none at all; look at the layer before."
        )
    values = SortedValues(x.detach().numpy())
    low, high = _candidates(values.low, values.high, n)
    best = int(values.errors(low, high, bits).argmin())
    return torch.tensor(low[best], dtype=x.dtype), torch.tensor(high[best], dtype=x.dtype)


@torch.no_grad()
def search_range_by_loops(x: torch.Tensor, bits: int, n: int = 100) -> Limits:
    """Figure 4 as it is printed: quantise all of X for every pair (Layer-Wise Data-Free CNN Compression, figure 4).

    Slow; here to check `search_range` and to compare with.
    """
    best, found = float("inf"), (torch.zeros(()), torch.zeros(()))
    for i in range(1, n + 1):
        high = i / n * x.max().clamp_min(0)
        for j in range(1, n + 1):
            low = j / n * x.min().clamp_max(0)
            error = (round_to_levels(x, low, high, bits) - x).square_().sum(dtype=torch.float64).item()
            if error < best:
                best, found = error, (low, high)
    return found


class LevelLayer(nn.Module):
    """A layer with rounded weight that rounds its input to levels of its own (Layer-Wise Data-Free CNN Compression, section III-C).

    inner: the layer; its weight lies on 2^weight_bits levels a tensor (or a channel).
    low, high: range of the input, after skip additions, because there the input of a layer is.
    """

    def __init__(self, inner: nn.Conv2d | nn.Linear, weight_bits: int, act_bits: int, per_channel: bool):
        super().__init__()
        self.inner, self.weight_bits, self.act_bits = copy.deepcopy(inner), weight_bits, act_bits
        self.inner.weight.data = round_weight(inner.weight.detach(), weight_bits, per_channel)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x):
        step = step_of(self.low, self.high, self.act_bits)
        x = x.clamp(self.low, self.high).sub_(self.low).div_(step).round_()  # eqs. 13 and 14 in place
        return self.inner(x.mul_(step).add_(self.low))

    def extra_repr(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}"


def round_weight(weight: torch.Tensor, bits: int, per_channel: bool = False) -> torch.Tensor:
    """The weight on levels from its minimum to its maximum: one range a tensor (Layer-Wise Data-Free CNN Compression, section III-C)."""
    shape = (-1, *[1] * (weight.ndim - 1)) if per_channel else ()
    low, high = (v.view(shape) for v in quantize.weight_range(weight, per_channel))
    return round_to_levels(weight, low, high, bits)


def _input_of(model: nn.Module, graph: Graph, name: str, moments: lw.Moments, config: LayerWise) -> torch.Tensor:
    """Imitated input of the plain layer `name`: as values are independent from place to place, one place an input will do."""
    generator = torch.Generator().manual_seed(config.seed)
    x = lw.layer_input(graph, name, moments, (config.samples, 1, 1), generator)
    return x * _entry(model, name).view(1, -1, *[1] * (x.ndim - 2))


def _entry(model: nn.Module, name: str) -> torch.Tensor:
    """v_in of a layer with buffers, else one."""
    return getattr(model.get_submodule(name), "v_in", torch.ones(1))


def _by_column(values: torch.Tensor, columns: int) -> torch.Tensor:
    """One value a channel as one a column; a linear layer may have several columns a channel."""
    return values.repeat_interleave(columns // len(values))


def _limits(model: nn.Module, graph: Graph, name: str, moments: lw.Moments, config: LayerWise) -> Limits:
    if config.ranges == "six_sigma":
        inputs, entry = graph.layer(name).inputs, _entry(model, name)
        low, high = (_by_column(v, inputs) * entry for v in dfq.six_sigma_range(graph.feeding(name), moments, inputs))
        return low.amin(), high.amax()
    x = _input_of(model, graph, name, moments, config)
    return search_range(x, config.act_bits, config.grid) if config.ranges == "search" else (x.min(), x.max())


@torch.no_grad()
def set_ranges(student: nn.Module, graph: Graph, moments: lw.Moments, config: LayerWise) -> None:
    """Range of every layer's input, in place; no image and no gradient."""
    for layer in graph.layers:
        module = student.get_submodule(layer.name)
        inner = module.inner if isinstance(module, lw.BufferedLayer) else module
        low, high = _limits(student, graph, layer.name, moments, config)
        inner.low.copy_(low), inner.high.copy_(high)


def with_levels(model: nn.Module, graph: Graph, config: LayerWise) -> nn.Module:
    """A copy in which every layer is a `LevelLayer` (inside its buffers, where it has some); ranges are still to be set."""
    student = copy.deepcopy(model).eval()
    for layer in graph.layers:
        module = student.get_submodule(layer.name)
        inner = module.inner if isinstance(module, lw.BufferedLayer) else module
        rounded = LevelLayer(inner, config.weight_bits, config.act_bits, config.per_channel)
        parent, _, leaf = (f"{layer.name}.inner" if inner is not module else layer.name).rpartition(".")
        setattr(student.get_submodule(parent), leaf, rounded)
    return student


@torch.no_grad()
def correct_biases(student: nn.Module, model: nn.Module, graph: Graph, moments: lw.Moments) -> None:
    """Give every layer back the mean that rounding its weight took, in place; expected inputs from the moments alone."""
    for layer in graph.layers:
        feed = graph.feeding(layer.name)
        whole, module = model.get_submodule(layer.name), student.get_submodule(layer.name)
        if not dfq.has_moments(feed):
            continue
        mean = _by_column(dfq.gaussian(feed, moments, layer.inputs)[0], layer.inputs)
        if isinstance(whole, lw.BufferedLayer):
            whole, module, mean = whole.inner, module.inner, mean * _entry(model, layer.name)
        dfq.correct_bias(module.inner, whole.weight, mean)


def prepare(model: nn.Module, graph: Graph, config: LayerWise) -> tuple[nn.Module, lw.Moments]:
    """Fusion, equalisation and absorption: the float network that is quantised, and the moments that belong to it."""
    moments = lw.stored_moments(model, graph)
    if config.equalize:
        found = lw.equalize(model, graph=graph)
        ready, moments = found.model, lw.tracked_moments(moments, graph, found)
    else:
        ready = fold_all(model, graph)
    return dfq.absorb_bias(ready, graph, moments) if config.absorb else (ready, moments)


def compress(model: nn.Module, config: LayerWise, pool=None, shape=(3, 32, 32)) -> tuple[nn.Module, dict]:
    """Fuse, equalise, absorb, correct, set ranges (Layer-Wise Data-Free CNN Compression, section III-C).

    The paper sets the ranges before the correction and again after it. Here both settings are the same, because
    the imitated input of a layer depends on no weight, so they are set once.

    Args:
        pool: None; given images are refused, because the method has no use for them.
        shape: of one image; imitated inputs do not depend on it.
    Returns:
        the quantised network, and a report.
    """
    if pool is not None:
        raise DataFreeError("layer-wise quantisation uses no images; leave them out, or choose KnowledgeWithin.")
    graph = trace(model)
    start = time.perf_counter()
    ready, moments = prepare(model, graph, config)
    student = with_levels(ready, graph, config)
    if config.correct:
        correct_biases(student, ready, graph, moments)
    set_ranges(student, graph, moments, config)
    return student, {"method_seconds": time.perf_counter() - start, "not_handled": graph.problems()}
