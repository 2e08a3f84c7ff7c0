"""Layer-Wise Data-Free CNN Compression, section III-C: ranges by search, and quantisation without data or training.

Figure 4 and the order of steps. Equalisation and imitated inputs are in `layerwise`. The quantiser (eqs. 13 and 14)
lives in `datafree.core.levels`, because the baselines round with it too.
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ...baselines import dfq
from ...config import Strict
from ...core import levels
from ...core.graph import Graph, fold_all, trace
from ...core.range_search import SortedValues
from ...core.register import Result, method
from ...errors import DataFreeError
from ...networks.blocks import normalization
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
    inputs: Literal["before_buffers", "behind_buffers"] = Field(
        "before_buffers", description="where a layer with buffers rounds its input; not given (ReLU needs no buffers)"
    )
    first: Literal["normal", "pixels"] = Field(
        "normal",
        description="input of the network: N(0, 1) (section III-B), or what normalised pixels can be; not in the paper",
    )
    per_channel: bool = Field(False, description="a range for each output channel of a weight; the paper: per tensor")
    seed: int = Field(0, ge=0)


def _candidates(x_min: float, x_max: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """l and h of all pairs of figure 4, h in the outer loop; where one end is stuck at zero its loop has one turn."""
    shares = np.arange(1, n + 1) / n
    high = shares * max(x_max, 0.0) if x_max > 0 else np.zeros(1)
    low = shares * min(x_min, 0.0) if x_min < 0 else np.zeros(1)
    return np.tile(low, len(high)), np.repeat(high, len(low))


@torch.no_grad()
def search_range(x: torch.Tensor, bits: int, n: int = 100) -> levels.Limits:
    r"""The range with the least squared error, over shrunk extremes (Layer-Wise Data-Free CNN Compression, figure 4).

    .. math:: \min_{i, j} \bigl\| X - Q(X; l_j, h_i) \bigr\|_2, \qquad
              h_i = \tfrac iN \max(x_{\max}, 0),\quad l_j = \tfrac jN \min(x_{\min}, 0)

    The same pair as `search_range_by_loops`, without its N^2 sweeps over X: see `datafree.core.range_search`.

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
def search_range_by_loops(x: torch.Tensor, bits: int, n: int = 100) -> levels.Limits:
    """Figure 4 as it is printed: quantise all of X for every pair (Layer-Wise Data-Free CNN Compression, figure 4).

    Slow; here to check `search_range` and to compare with.
    """
    best, found = float("inf"), (torch.zeros(()), torch.zeros(()))
    for i in range(1, n + 1):
        high = i / n * x.max().clamp_min(0)
        for j in range(1, n + 1):
            low = j / n * x.min().clamp_max(0)
            error = (levels.round_to_levels(x, low, high, bits) - x).square_().sum(dtype=torch.float64).item()
            if error < best:
                best, found = error, (low, high)
    return found


def _input_of(
    graph: Graph, name: str, moments: generated_inputs.Moments, entry: torch.Tensor, config: LayerWise
) -> torch.Tensor:
    """Imitated input of a layer behind `entry`: as values are independent from place to place, one place an input will do."""
    generator = torch.Generator().manual_seed(config.seed)
    x = generated_inputs.layer_input(graph, name, moments, (config.samples, 1, 1), generator)
    return x * entry.view(1, -1, *[1] * (x.ndim - 2))


def _entry(module: nn.Module) -> torch.Tensor:
    """v_in of a layer with buffers, else one."""
    return getattr(module, "v_in", torch.ones(1))


def _by_column(values: torch.Tensor, columns: int) -> torch.Tensor:
    """One value a channel as one a column; a linear layer may have several columns a channel."""
    return values.repeat_interleave(columns // len(values))


def _limits(
    graph: Graph, name: str, moments: generated_inputs.Moments, entry: torch.Tensor, config: LayerWise
) -> levels.Limits:
    if config.ranges == "six_sigma":
        inputs = graph.layer(name).inputs
        low, high = (_by_column(v, inputs) * entry for v in dfq.six_sigma_range(graph.feeding(name), moments, inputs))
        return low.amin(), high.amax()
    x = _input_of(graph, name, moments, entry, config)
    return search_range(x, config.act_bits, config.grid) if config.ranges == "search" else (x.min(), x.max())


def pixel_limits(model: nn.Module) -> levels.Limits:
    """Ends of what the first layer can receive: pixels lie in [0, 1], and the normalisation is known."""
    mean, std = normalization(model)
    return (-mean / std).min(), ((1 - mean) / std).max()


@torch.no_grad()
def set_ranges(student: nn.Module, graph: Graph, moments: generated_inputs.Moments, config: LayerWise) -> None:
    """Range of every layer's input, in place; no image and no gradient."""
    for layer in graph.layers:
        module = student.get_submodule(layer.name)
        rounded = module if isinstance(module, levels.LevelLayer) else module.inner
        entry = torch.ones(1) if rounded is module else _entry(module)
        if config.first == "pixels" and graph.feeding(layer.name).kind == "input":
            low, high = pixel_limits(student)
        else:
            low, high = _limits(graph, layer.name, moments, entry, config)
        rounded.low.copy_(low), rounded.high.copy_(high)


def with_levels(model: nn.Module, graph: Graph, config: LayerWise) -> nn.Module:
    """A copy in which every layer is a `LevelLayer`; ranges are still to be set.

    A layer with buffers lies with them inside the `LevelLayer` (its input is rounded as it comes), or, with
    inputs='behind_buffers', only the layer itself does (its input is scaled first).
    """
    names = []
    for layer in graph.layers:
        buffered = isinstance(model.get_submodule(layer.name), equalization.BufferedLayer)
        names.append(f"{layer.name}.inner" if buffered and config.inputs == "behind_buffers" else layer.name)
    settings = config.weight_bits, config.act_bits, config.per_channel
    return levels.replaced(model, names, lambda layer: levels.LevelLayer(layer, *settings))


@torch.no_grad()
def correct_biases(student: nn.Module, model: nn.Module, graph: Graph, moments: generated_inputs.Moments) -> None:
    """Give every layer back the mean that rounding its weight took, in place; expected inputs from the moments alone."""
    for layer in graph.layers:
        feed = graph.feeding(layer.name)
        if not dfq.has_moments(feed):
            continue
        whole, module = model.get_submodule(layer.name), student.get_submodule(layer.name)
        mean = _by_column(dfq.gaussian(feed, moments, layer.inputs)[0], layer.inputs) * _entry(whole)
        rounded = module if isinstance(module, levels.LevelLayer) else module.inner
        dfq.correct_bias(rounded.core, getattr(whole, "inner", whole).weight, mean)


def prepare(model: nn.Module, graph: Graph, config: LayerWise) -> tuple[nn.Module, generated_inputs.Moments]:
    """Fusion, equalisation and absorption: the float network that is quantised, and the moments that belong to it."""
    moments = generated_inputs.stored_moments(model, graph)
    if config.equalize:
        found = equalization.equalize(model, graph=graph)
        ready, moments = found.model, generated_inputs.tracked_moments(moments, graph, found)
    else:
        ready = fold_all(model, graph)
    return dfq.absorb_bias(ready, graph, moments) if config.absorb else (ready, moments)


def without_ranges(model: nn.Module, config: LayerWise) -> nn.Module:
    """The equalised network on levels whose ranges are still to be set: what a compressed one is read back into."""
    graph = trace(model)
    return with_levels(prepare(model, graph, config)[0], graph, config)


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

    Returns:
        the quantised network, and a report.
    """
    graph = trace(model)
    start = time.perf_counter()
    ready, moments = prepare(model, graph, config)
    student = with_levels(ready, graph, config)
    if config.correct:
        correct_biases(student, ready, graph, moments)
    set_ranges(student, graph, moments, config)
    return Result(student, {"method_seconds": time.perf_counter() - start, "not_handled": graph.problems()})
