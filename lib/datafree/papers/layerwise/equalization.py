"""Layer-Wise Data-Free CNN Compression (Horton, Jin, Farhadi, Rastegari, 2020): equalised layers, imitated inputs.

Section III-A fusion and assumption-free cross-layer equalisation (AFCLE, eqs. 1 to 9), III-B inputs of a layer
from the BatchNorm before it (eqs. 10 to 12). The fusion itself is `datafree.core.graph.fold_all`.

Layer 1 is the earlier layer of a pair and layer 2 the later one. The text below eq. 2 says the opposite, but only
this reading of eqs. 4 to 9 keeps the function.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ...config import Strict
from ...core.graph import Graph, Pair, fold_all, put_module, trace
from ...errors import DataFreeError
from ...networks.blocks import CappedReLU


class Equalization(Strict):
    """Settings of AFCLE. 'Not given' marks values that the paper leaves out."""

    buffers: Literal["needed", "always", "never"] = Field(
        "needed",
        description="where buffers undo the scaling: only around activations that a factor cannot pass (section "
        "III-A), around all pairs, or around none (pairs with such activations are then left as they are)",
    )
    tolerance: float = Field(1e-3, gt=0, description="distance of the mean scale from one that ends it (section III-A)")
    strict: bool = Field(True, description="ask the mean of |s - 1| to be within the tolerance too; not in the paper")
    max_sweeps: int = Field(1000, ge=1, description="sweeps at most; not given")


# III-A: fusion and equalisation -------------------------------------------------------------------------------------


@torch.no_grad()
def rescale_block(conv: nn.Module, norm: nn.BatchNorm2d, a: torch.Tensor) -> tuple[nn.Module, nn.BatchNorm2d]:
    r"""A linear layer and its BatchNorm with each channel scaled and scaled back
    (Layer-Wise Data-Free CNN Compression, eq. 1).

    .. math:: W^c \to a_c W^c,\quad b_c \to a_c b_c,\quad \mu_c \to a_c \mu_c,\quad \gamma_c \to \gamma_c / a_c

    Args:
        a: [C], each not zero; the sign does not matter, because nothing nonlinear lies between the two.
    Returns:
        copies of both with the same function. Book: {ref}`lw-invariance`.
    """
    if (a == 0).any():
        raise DataFreeError("a scale of zero loses its channel; give scales that are not zero.")
    conv, norm = copy.deepcopy(conv), copy.deepcopy(norm)
    conv.weight.mul_(a.view(-1, *[1] * (conv.weight.ndim - 1)))
    if conv.bias is not None:
        conv.bias.mul_(a)
    norm.running_mean.mul_(a)
    norm.weight.div_(a)
    return conv, norm


@torch.no_grad()
def cross_scale(first: nn.Module, last: nn.Module, s: torch.Tensor) -> None:
    r"""Move a factor from the rows of one layer to the columns of the next, in place
    (Layer-Wise Data-Free CNN Compression, eq. 2).

    .. math:: W_1^c \to W_1^c / s_c,\quad b_{1,c} \to b_{1,c} / s_c,\quad W_2^c \to s_c W_2^c

    Keeps the function where the activation f between the two has f(s x) = s f(x).

    Args:
        s: [C], each above zero (the text does not say so): f may treat the two signs differently.

    Book: {eq}`lw-eq-2`.
    """
    if not (s > 0).all():
        raise DataFreeError("a factor that passes an activation must be above zero; give positive scales.")
    scale_rows(first, s)
    scale_columns(last, s)


class BufferedLayer(nn.Module):
    r"""A layer with a factor for each input and output channel (Layer-Wise Data-Free CNN Compression, eq. 3).

    .. math:: L(x) = \bigl(W (x \cdot v_{\mathrm{in}}) + b\bigr) \cdot v_{\mathrm{out}}

    Attributes:
        inner: W and b; v_in: [I], v_out: [O], ones at the start. Book: {ref}`lw-buffers`.
    """

    def __init__(self, inner: nn.Conv2d | nn.Linear):
        super().__init__()
        conv = isinstance(inner, nn.Conv2d)
        inputs, outputs = (inner.in_channels, inner.out_channels) if conv else (inner.in_features, inner.out_features)
        self.inner, self.shape = inner, (1, -1, 1, 1) if conv else (1, -1)
        self.register_buffer("v_in", inner.weight.new_ones(inputs))
        self.register_buffer("v_out", inner.weight.new_ones(outputs))

    def forward(self, x):
        return self.inner(x * self.v_in.view(self.shape)) * self.v_out.view(self.shape)


def blocks(layer: nn.Module) -> torch.Tensor:
    """The weight as [G, O/G, I/G, ...], group by group; a linear layer has one group. A view."""
    inner = getattr(layer, "inner", layer)
    groups = getattr(inner, "groups", 1)
    return inner.weight.view(groups, -1, *inner.weight.shape[1:])


def magnitudes(layer: nn.Module, positions: int = 1) -> torch.Tensor:
    """Largest |W| of each pair of channels, [G, O/G, I/G]: over the kernel, or over a channel's columns.

    Args:
        positions: columns a channel of a linear layer.
    """
    weight = blocks(layer).detach().abs()
    if not torch.isfinite(weight).all():
        raise DataFreeError("a weight holds NaN or infinity; equalisation needs finite weights.")
    if weight.ndim == 3:
        return weight.unflatten(2, (-1, positions)).amax(3)
    return weight.flatten(3).amax(3)


def equalizing_scale(range1: torch.Tensor, range2: torch.Tensor) -> torch.Tensor:
    r"""The factor after which both channels have the same range (Layer-Wise Data-Free CNN Compression, eq. 4).

    .. math:: s_c = \frac{\sqrt{\max|W_1^c| \, \max|W_2^c|}}{\max|W_2^c|}

    Args:
        range1, range2: [C], largest magnitude of row c of the earlier and of column c of the later layer.
    Returns:
        [C], above zero; one where a channel has no range, because there is nothing to share. Book: {ref}`lw-scale`.
    """
    # sqrt(r_1 r_2) / r_2 = sqrt(r_1 / r_2)
    s = (range1 / range2).sqrt()
    return torch.where((range2 > 0) & (s > 0) & torch.isfinite(s), s, torch.ones_like(s))


@torch.no_grad()
def scale_rows(layer: nn.Module, s: torch.Tensor) -> None:
    r"""The earlier layer gives a factor away, in place (Layer-Wise Data-Free CNN Compression, eqs. 5 to 7).

    .. math:: W_1^c \to W_1^c / s_c,\quad v_{1,c}^{\mathrm{out}} \to v_{1,c}^{\mathrm{out}} s_c,\quad b_{1,c} \to b_{1,c} / s_c

    Args:
        layer: a `BufferedLayer`, or a plain layer, for which eq. 6 is left out.
        s: [O].

    Book: {eq}`lw-eq-5-9`.
    """
    inner = getattr(layer, "inner", layer)
    inner.weight.div_(s.view(-1, *[1] * (inner.weight.ndim - 1)))
    if inner.bias is not None:
        inner.bias.div_(s)
    if isinstance(layer, BufferedLayer):
        layer.v_out.mul_(s)


@torch.no_grad()
def scale_columns(layer: nn.Module, s: torch.Tensor) -> None:
    r"""The later layer takes the factor, in place (Layer-Wise Data-Free CNN Compression, eqs. 8 and 9).

    .. math:: W_2^c \to s_c W_2^c,\quad v_{2,c}^{\mathrm{in}} \to v_{2,c}^{\mathrm{in}} / s_c

    Args:
        layer: a `BufferedLayer`, or a plain layer, for which eq. 9 is left out.
        s: [C]; a linear layer may have several columns a channel.

    Book: {eq}`lw-eq-5-9`.
    """
    inner = getattr(layer, "inner", layer)
    if isinstance(inner, nn.Linear):
        s = s.repeat_interleave(inner.in_features // len(s))
    weight = blocks(layer)
    # group by group: each has its own columns
    weight.mul_(s.view(len(weight), 1, -1, *[1] * (weight.ndim - 3)))
    if isinstance(layer, BufferedLayer):
        layer.v_in.div_(s)


def afcle_step(first: nn.Module, last: nn.Module) -> torch.Tensor:
    """One update of all channels of one pair, in place (Layer-Wise Data-Free CNN Compression, section III-A).

    Args:
        first, last: each a `BufferedLayer` or plain; plain layers are the buffer-free form.
    Returns:
        s [C] of eq. 4. Book: {ref}`lw-afcle`.
    """
    rows = magnitudes(first).amax(2).flatten()
    inner = getattr(last, "inner", last)
    positions = inner.in_features // len(rows) if isinstance(inner, nn.Linear) else 1
    s = equalizing_scale(rows, magnitudes(last, positions).amax(1).flatten())
    scale_rows(first, s)
    scale_columns(last, s)
    return s


class _Ranges:
    """Row and column maxima of one layer under factors that are not yet applied to its weight.

    The weight is read once; a sweep then handles [O] and [I] vectors. Only where a layer is scaled from both
    sides must one side's maxima be taken again, from the matrix of magnitudes.
    """

    def __init__(self, layer: nn.Module, positions: int):
        # |W| once; scaling rows by 1/s and columns by s only moves maxima about
        self.matrix = magnitudes(layer, positions)
        groups, rows, columns = self.matrix.shape
        self.divisor, self.factor = self.matrix.new_ones(groups * rows), self.matrix.new_ones(groups * columns)
        self._rows = self._columns = None

    def rows(self) -> torch.Tensor:
        if self._rows is None:
            factor = self.factor.view(len(self.matrix), 1, -1)
            # max_i |W_oi| f_i / d_o, with f the factors of the columns and d the divisors of the rows
            self._rows = (self.matrix * factor).amax(2).flatten() / self.divisor
        return self._rows

    def columns(self) -> torch.Tensor:
        if self._columns is None:
            divisor = self.divisor.view(len(self.matrix), -1, 1)
            # max_o |W_oi| / d_o f_i
            self._columns = (self.matrix / divisor).amax(1).flatten() * self.factor
        return self._columns

    def scale_rows(self, s: torch.Tensor) -> None:
        self.divisor, self._rows, self._columns = self.divisor * s, self.rows() / s, None

    def scale_columns(self, s: torch.Tensor) -> None:
        self.factor, self._columns, self._rows = self.factor * s, self.columns() * s, None


@dataclass(frozen=True)
class Equalized:
    """What `equalize` returns.

    model: the fused and equalised copy; layers of `buffered` pairs are `BufferedLayer`s.
    scales: first layer of a pair -> the factor [O] its output was divided by, all sweeps together.
    buffered, plain, left: pairs with buffers, without, and those not touched ('never' and a factor cannot pass).
    mean_scale, mean_deviation: mean of s and of |s - 1| of every sweep; s of the last sweep is not applied.
    converged: whether the stopping rule was met.
    """

    model: nn.Module
    scales: dict[str, torch.Tensor]
    buffered: tuple[Pair, ...]
    plain: tuple[Pair, ...]
    left: tuple[Pair, ...]
    mean_scale: tuple[float, ...]
    mean_deviation: tuple[float, ...]
    converged: bool


def equalize(model: nn.Module, config: Equalization | None = None, graph: Graph | None = None) -> Equalized:
    """Fusion, then AFCLE over all neighbouring layers until it settles (Layer-Wise Data-Free CNN Compression, section III-A).

    Args:
        model: a trained network; never changed.
        graph: of `trace(model)`, if at hand.
    Returns:
        a copy with the same function in evaluation mode. Book: {ref}`lw-afcle`.
    """
    config = config or Equalization()
    graph = graph or trace(model)
    folded = fold_all(model, graph)
    pairs = graph.neighbours()
    left = tuple(p for p in pairs if config.buffers == "never" and not p.homogeneous)
    pairs = [p for p in pairs if p not in left]
    ranges, means, deviations, converged = _settle(folded, pairs, config)
    buffered = tuple(p for p in pairs if config.buffers == "always" or not p.homogeneous)
    scales = {p.first: ranges[p.first].divisor for p in pairs}
    _apply(folded, pairs, buffered, scales)
    plain = tuple(p for p in pairs if p not in buffered)
    return Equalized(folded, scales, buffered, plain, left, means, deviations, converged)


@torch.no_grad()
def _settle(model: nn.Module, pairs: list[Pair], config: Equalization):
    """Sweep over the pairs on vectors of ranges only; eq. 4 for all channels of a pair at once."""
    positions = {p.first: 1 for p in pairs} | {p.last: p.positions for p in pairs}
    ranges = {name: _Ranges(model.get_submodule(name), k) for name, k in positions.items()}
    means, deviations = [], []
    for _ in range(config.max_sweeps if pairs else 0):
        scales = []
        for p in pairs:
            first, last = ranges[p.first], ranges[p.last]
            s = equalizing_scale(first.rows(), last.columns())
            first.scale_rows(s)
            last.scale_columns(s)
            scales.append(s)
        s = torch.cat(scales)
        means.append(s.mean().item())
        deviations.append((s - 1).abs().mean().item())
        if stops(means[-1], deviations[-1], config):
            return ranges, tuple(means), tuple(deviations), True
    return ranges, tuple(means), tuple(deviations), not pairs


def stops(mean: float, deviation: float, config: Equalization) -> bool:
    r"""The stopping rule (Layer-Wise Data-Free CNN Compression, section III-A).

    .. math:: \Bigl|\frac1n \sum_c s_c - 1\Bigr| < 10^{-3}

    Factors above and below one cancel in it. With `config.strict` the mean of |s_c - 1| must be as small.
    """
    return abs(mean - 1) < config.tolerance and (not config.strict or deviation < config.tolerance)


def _apply(model: nn.Module, pairs: list[Pair], buffered: tuple[Pair, ...], scales: dict[str, torch.Tensor]) -> None:
    """Eqs. 5 to 9 with the factors of all sweeps together: each weight is written once."""
    for name in {name for p in buffered for name in (p.first, p.last)}:
        put_module(model, name, BufferedLayer(model.get_submodule(name)))
    for p in pairs:
        first, last = (model.get_submodule(name) for name in (p.first, p.last))
        if p not in buffered:
            first, last = (getattr(layer, "inner", layer) for layer in (first, last))
        scale_rows(first, scales[p.first])
        scale_columns(last, scales[p.first])


def cappable(found: Equalized) -> tuple[Pair, ...]:
    """The pairs whose buffers caps can stand for: those with ReLU6 between."""
    return tuple(pair for pair in found.buffered if pair.acts == ("relu6",))


@torch.no_grad()
def capped(model: nn.Module, graph: Graph, found: Equalized) -> nn.Module:
    r"""A copy with caps in place of the buffers around each ReLU6, which integers can run; ours.

    .. math:: \frac1s \min\bigl(\max(0, s\,y), 6\bigr) = \min\bigl(\max(0, y), \tfrac6s\bigr)

    Args:
        model: `found.model`, or that network quantised with its inputs rounded behind the buffers.
        graph: of the network that was equalised.
    Returns:
        the same function. Where the input is rounded before the buffers there is no such form: the factor of an input
        channel then sits between two grids.
    """
    model = copy.deepcopy(model)
    for pair in cappable(found):
        first, last = model.get_submodule(pair.first), model.get_submodule(pair.last)
        put_module(model, graph.activation(pair.first), CappedReLU(6 / first.v_out))
        first.v_out.fill_(1), last.v_in.fill_(1)
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, BufferedLayer)]:
        if (layer.v_in == 1).all() and (layer.v_out == 1).all():
            put_module(model, name, layer.inner)
    return model


@torch.no_grad()
def fold_buffers(model: nn.Module) -> nn.Module:
    """A copy whose buffers are part of weight and bias: no parameter more than before (Layer-Wise Data-Free CNN Compression, section III-A).

    In a quantised layer this turns the grid of the tensor into one for each channel.
    """
    model = copy.deepcopy(model)
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, BufferedLayer)]:
        scale_columns(layer.inner, layer.v_in)
        # v_out multiplies the output: rows of W and the bias take it in
        scale_rows(layer.inner, 1 / layer.v_out)
        put_module(model, name, layer.inner)
    return model
