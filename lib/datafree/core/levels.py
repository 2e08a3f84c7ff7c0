"""Evenly spaced levels from the lower to the upper end of a range, and layers whose weight and input lie on such levels.

The quantiser of Layer-Wise Data-Free CNN Compression (eqs. 13 and 14); its baselines round with the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from ..errors import DataFreeError
from . import quantizer
from .graph import Graph, put_module

Limits = tuple[torch.Tensor, torch.Tensor]
"""Ends (l, h) of a range: scalars for one a tensor, [O] for one a channel."""

FOLLOW = 0.1
"""How far the range of a layer that learns moves towards the extremes of each batch."""


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


def weight_limits(weight: torch.Tensor, per_channel: bool = False) -> Limits:
    """Minimum and maximum of a weight, or of each of its output channels, in a shape that broadcasts with it."""
    shape = (-1, *[1] * (weight.ndim - 1)) if per_channel else ()
    low, high = quantizer.weight_range(weight, per_channel)
    return low.view(shape), high.view(shape)


def round_weight(weight: torch.Tensor, bits: int, per_channel: bool = False) -> torch.Tensor:
    """The weight on levels from its minimum to its maximum: one range a tensor (Layer-Wise Data-Free CNN Compression, section III-C)."""
    return round_to_levels(weight, *weight_limits(weight, per_channel), bits)


class LevelLayer(nn.Module):
    """A layer with rounded weight that rounds its input to levels of its own (Layer-Wise Data-Free CNN Compression, section III-C).

    inner: the layer, or the layer inside buffers; the weight of `core` lies on 2^weight_bits levels a tensor (or a channel).
    low, high: range of the input, after skip additions, because there the input of a layer is.
    """

    def __init__(self, inner: nn.Module, weight_bits: int, act_bits: int, per_channel: bool = False):
        super().__init__()
        self.inner, self.weight_bits, self.act_bits = copy.deepcopy(inner), weight_bits, act_bits
        self.per_channel = per_channel
        self.core.weight.data = round_weight(self.core.weight.detach(), weight_bits, per_channel)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @property
    def core(self) -> nn.Conv2d | nn.Linear:
        """The convolution or linear layer itself."""
        return getattr(self.inner, "inner", self.inner)

    def forward(self, x):
        low, high, step = (v.item() for v in (self.low, self.high, step_of(self.low, self.high, self.act_bits)))
        x = x.clamp(low, high).sub_(low).div_(step).round_()  # eqs. 13 and 14 in place
        return self.inner(x.mul_(step).add_(low))

    def extra_repr(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}, per_channel={self.per_channel}"


class _ToLevels(torch.autograd.Function):
    """Eqs. 13 and 14 whose gradient is one inside the range and zero outside (straight through)."""

    @staticmethod
    def forward(ctx, x, low, high, bits):
        ctx.save_for_backward(x)
        ctx.ends = low.item(), high.item()
        return round_to_levels(x, low, high, bits)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends), None, None, None


class LearningLayer(nn.Module):
    """A layer to be trained for levels: weight and input are rounded in each pass, gradients go straight through.

    The range of the weight is its own; that of the input follows the extremes of the batches while gradients are on.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, weight_bits: int, act_bits: int):
        super().__init__()
        self.inner, self.weight_bits, self.act_bits = copy.deepcopy(layer), weight_bits, act_bits
        self.register_buffer("low", torch.full((), torch.nan))
        self.register_buffer("high", torch.full((), torch.nan))

    @torch.no_grad()
    def follow(self, x: torch.Tensor) -> None:
        """Move the range towards the extremes of x; the first batch sets it."""
        for end, value in ((self.low, x.min()), (self.high, x.max())):
            end.copy_(value if end.isnan() else torch.lerp(end, value, FOLLOW))

    def forward(self, x):
        if torch.is_grad_enabled():
            self.follow(x)
        elif self.low.isnan():
            raise DataFreeError("a layer that learns its range was run before any step of training; train it first.")
        layer, weight = self.inner, self.inner.weight
        x = _ToLevels.apply(x, self.low, self.high, self.act_bits)
        weight = weight + (round_weight(weight.detach(), self.weight_bits) - weight.detach())
        if isinstance(layer, nn.Linear):
            return nn.functional.linear(x, weight, layer.bias)
        return layer._conv_forward(x, weight, layer.bias)

    def finished(self) -> LevelLayer:
        """The layer as it is used after training."""
        done = LevelLayer(self.inner, self.weight_bits, self.act_bits)
        done.low.copy_(self.low), done.high.copy_(self.high)
        return done


def replaced(model: nn.Module, names: list[str], make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `model` in evaluation mode with `make(layer)` in the place of each named layer."""
    student = copy.deepcopy(model).eval()
    for name in names:
        put_module(student, name, make(student.get_submodule(name)))
    return student.eval()


def learning(model: nn.Module, graph: Graph, weight_bits: int, act_bits: int) -> nn.Module:
    """A copy with a `LearningLayer` for every layer; `model` should be fused, because BatchNorm is not trained."""
    names = [layer.name for layer in graph.layers]
    return replaced(model, names, lambda layer: LearningLayer(layer, weight_bits, act_bits))


def finished(student: nn.Module) -> nn.Module:
    """A copy in which every `LearningLayer` is a `LevelLayer`."""
    names = [name for name, module in student.named_modules() if isinstance(module, LearningLayer)]
    return replaced(student, names, LearningLayer.finished)
