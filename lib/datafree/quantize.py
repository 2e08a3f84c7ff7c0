"""Uniform quantisation, simulated in floating point: the quantiser, range rules, and quantised networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .errors import DataFreeError

BIT_RANGE = (2, 16)


def affine_parameters(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Step and zero point of an asymmetric quantiser whose grid holds zero (Krishnamoorthi, section 2.1).

    .. math:: s = \frac{\max(h, 0) - \min(l, 0)}{2^b - 1}, \quad n_0 = \mathrm{round}(-\min(l, 0) / s)

    Args:
        low, high: ends of the range, of any equal shape.
        bits: b.
    Returns:
        s (units of the input) and n_0 (integer, as int32), of the same shape. Book: {ref}`kw-quantizer`.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(torch.float32).tiny * 2**bits)
    return scale, (-low / scale).round().to(torch.int32)


@torch.no_grad()
def round_to_grid(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """The values of `fake_quantize` without its gradient, in four sweeps over one new tensor; x is not changed."""
    x = torch.div(x.float(), scale).round_()
    return x.clamp_(-zero_point, 2**bits - 1 - zero_point).mul_(scale)


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is one (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    r"""Round to the grid and back, with straight-through gradient inside the range (The Knowledge Within, section 4.2).

    .. math:: Q(x) = s\,\bigl(\mathrm{clip}(\mathrm{round}(x / s) + n_0,\, 0,\, 2^b - 1) - n_0\bigr)

    Args:
        x: any shape; scale, zero_point: shapes that broadcast with it (per channel: [C, 1, 1, 1]).
        bits: b.
    Returns:
        the shape of x, with at most 2^b values a channel. Book: {ref}`kw-quantizer`.
    """
    integer = _StraightThrough.apply(x / scale) + zero_point
    return (integer.clamp(0, 2**bits - 1) - zero_point) * scale


class _FakeQuantizeTensor(torch.autograd.Function):
    """`fake_quantize` of a whole tensor for training: four sweeps forward, one backward, in the precision of the input."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, bits):
        step, zero, top = scale.item(), zero_point.item(), 2**bits - 1
        ctx.save_for_backward(x)
        ctx.ends = ((-zero - 0.5) * step, (top - zero + 0.5) * step)
        return x.div(step).round_().clamp_(-zero, top - zero).mul_(step)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends), None, None, None


BF16_LEVELS = 4
"""Up to this width bfloat16 input is rounded in bfloat16: its eight significant bits place 2^4 levels to 1/16 of a step."""


def fake_quantize_tensor(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """`fake_quantize` with one range for the whole tensor, made for training: same values, same gradient, fewer sweeps.

    bfloat16 input of more than 4 bits is rounded in float32.
    """
    if x.dtype == torch.bfloat16 and bits > BF16_LEVELS:
        x = x.float()
    return _FakeQuantizeTensor.apply(x, scale, zero_point, bits)


def weight_range(weight: torch.Tensor, per_channel: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest weight of each output channel [O], or of the tensor (a scalar)."""
    flat = weight.detach().flatten(1) if per_channel else weight.detach().flatten()
    return flat.amin(-1), flat.amax(-1)


def quantize_weight(
    weight: torch.Tensor, bits: int, per_channel: bool = True, limits: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Fake-quantised weight [O, ...] by torch's fused kernels (same values as `fake_quantize`).

    Args:
        limits: smallest and largest weight as `weight_range` gives them; None: of this very weight.
    """
    scale, zero = affine_parameters(*(limits or weight_range(weight, per_channel)), bits)
    if per_channel:
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, 0, 2**bits - 1)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero, 0, 2**bits - 1)


def chunk_extremes(x: torch.Tensor, chunk: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Smoothed range: extremes of each chunk of samples, averaged (The Knowledge Within, section 4.2).

    .. math:: l = \frac1K\sum_k \min_{i \in \text{chunk } k} x_i, \quad h = \frac1K\sum_k \max_{i \in \text{chunk } k} x_i

    Args:
        x: [N, ...]; a last chunk with fewer than `chunk` samples is left out unless it is the only one.
    Returns:
        two scalars, in units of x. Book: {ref}`kw-range`.
    """
    whole = len(x) // chunk * chunk or len(x)
    parts = x[:whole].reshape(max(1, whole // chunk), -1) if x[:whole].is_contiguous() else _rows(x[:whole], chunk)
    return parts.amin(1).float().mean(), parts.amax(1).float().mean()  # aminmax(dim=1) is far slower


def _rows(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """[K, everything of chunk k] of a channels-last tensor without moving its memory."""
    x = x.permute(0, 2, 3, 1) if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else x
    return x.reshape(max(1, len(x) // chunk), -1)


class QuantizedLayer(nn.Module):
    """A convolution or linear layer that sees quantised inputs (per tensor) and quantised weights (per channel).

    The float weight stays as the master copy in `inner`; bias stays float. Ranges of the input are
    running means that `observe` adds to. Weight ranges follow the weights, unless `weight_limits` holds them.
    """

    def __init__(self, inner: nn.Conv2d | nn.Linear, weight_bits: int, act_bits: int, per_channel: bool = True):
        super().__init__()
        self.inner, self.per_channel = inner, per_channel
        self.weight_bits, self.act_bits = weight_bits, act_bits
        self.observing = False
        self.weight_limits: tuple[torch.Tensor, torch.Tensor] | None = None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def observe(self, x: torch.Tensor, chunk: int) -> None:
        """Running mean over batches of the smoothed extremes."""
        low, high = chunk_extremes(x.detach(), chunk)
        self.batches += 1
        self.low += (low - self.low) / self.batches
        self.high += (high - self.high) / self.batches

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        scale, zero = affine_parameters(self.low, self.high, self.act_bits)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return round_to_grid(x, scale, zero, self.act_bits)
        return fake_quantize_tensor(x, scale, zero, self.act_bits)

    def quantized_weight(self) -> torch.Tensor:
        return quantize_weight(self.inner.weight, self.weight_bits, self.per_channel, self.weight_limits)

    def forward(self, x):
        if self.observing:
            self.observe(x, self.observing)
            return self.inner(x)
        if not self.batches:
            raise DataFreeError(
                "a quantised layer was run before its input range was measured; call quantize.calibrate first."
            )
        x = self.quantize_input(x)
        weight = self.quantized_weight()
        if isinstance(self.inner, nn.Linear):
            return nn.functional.linear(x, weight, self.inner.bias)
        return self.inner._conv_forward(x, weight, self.inner.bias)

    def extra_repr(self) -> str:
        return f"w{self.weight_bits}a{self.act_bits}, per_channel={self.per_channel}"


def quantized_layers(model: nn.Module) -> list[tuple[str, QuantizedLayer]]:
    """All quantised layers with their names."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, QuantizedLayer)]


def _check_bits(**bits: int) -> None:
    for name, value in bits.items():
        if not BIT_RANGE[0] <= value <= BIT_RANGE[1]:
            raise DataFreeError(f"{name} is {value}; it must lie between {BIT_RANGE[0]} and {BIT_RANGE[1]}.")


def quantized(
    model: nn.Module, weight_bits: int, act_bits: int, *, edge_bits: int | None = None, per_channel: bool = True
) -> nn.Module:
    """A copy of `model` with every convolution and linear layer quantised; ranges are still to be measured.

    Args:
        weight_bits, act_bits: X and Y of XwYa.
        edge_bits: width of weights and inputs of the first and the last layer; None: as all others.
        per_channel: one weight range an output channel, else one a tensor.
    """
    _check_bits(
        weight_bits=weight_bits, act_bits=act_bits, **({"edge_bits": edge_bits} if edge_bits is not None else {})
    )
    student = copy.deepcopy(model).eval()
    names = [n for n, m in student.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if not names:
        raise DataFreeError(f"{type(model).__name__} has no convolution or linear layer to quantise.")
    for name in names:
        edge = edge_bits is not None and name in (names[0], names[-1])
        bits = (edge_bits, edge_bits) if edge else (weight_bits, act_bits)
        parent, _, leaf = name.rpartition(".")
        holder = student.get_submodule(parent)
        setattr(holder, leaf, QuantizedLayer(getattr(holder, leaf), *bits, per_channel))
    return student.eval()


def set_bits(student: nn.Module, weight_bits: int, act_bits: int, edge_bits: int | None = None) -> nn.Module:
    """Other widths for the same student; the measured ranges stay, because they do not depend on the widths."""
    _check_bits(weight_bits=weight_bits, act_bits=act_bits)
    found = [layer for _, layer in quantized_layers(student)]
    for i, layer in enumerate(found):
        edge = edge_bits is not None and i in (0, len(found) - 1)
        layer.weight_bits, layer.act_bits = (edge_bits, edge_bits) if edge else (weight_bits, act_bits)
    return student


def freeze_weight_ranges(student: nn.Module) -> nn.Module:
    """Hold the weight ranges at what they are now; without it they follow the weights."""
    for _, layer in quantized_layers(student):
        layer.weight_limits = weight_range(layer.inner.weight, layer.per_channel)
    return student


@contextmanager
def observing(student: nn.Module, chunk: int = 16) -> Iterator[nn.Module]:
    """Within the block forward passes measure input ranges, in float; ranges measured before are dropped."""
    found = [layer for _, layer in quantized_layers(student)]
    for layer in found:
        layer.observing = chunk
        for buffer in (layer.low, layer.high, layer.batches):
            buffer.zero_()
    try:
        yield student
    finally:
        for layer in found:
            layer.observing = False


@contextmanager
def baked(student: nn.Module) -> Iterator[nn.Module]:
    """For evaluation: quantise every weight once, not in every forward pass; the float weights come back afterwards."""
    found = [layer for _, layer in quantized_layers(student)]
    masters = [layer.inner.weight.data for layer in found]
    try:
        for layer in found:
            layer.inner.weight.data = layer.quantized_weight().detach()
            layer.forward = lambda x, layer=layer: layer.inner(layer.quantize_input(x))
        yield student
    finally:
        for layer, weight in zip(found, masters):
            layer.inner.weight.data = weight
            layer.__dict__.pop("forward", None)
