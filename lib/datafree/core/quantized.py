"""Quantised networks: layers with rounded weights and inputs, and the correction of their biases."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataFreeError
from . import observers, quantizer
from .hooks import evaluating, output_hooks

BIT_RANGE = (2, 16)


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
        low, high = observers.chunk_extremes(x.detach(), chunk)
        self.batches += 1
        self.low += (low - self.low) / self.batches
        self.high += (high - self.high) / self.batches

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        scale, zero = quantizer.affine_parameters(self.low, self.high, self.act_bits)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return quantizer.round_to_grid(x, scale, zero, self.act_bits)
        return quantizer.fake_quantize_tensor(x, scale, zero, self.act_bits)

    def quantized_weight(self) -> torch.Tensor:
        return quantizer.quantize_weight(self.inner.weight, self.weight_bits, self.per_channel, self.weight_limits)

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
        layer.weight_limits = quantizer.weight_range(layer.inner.weight, layer.per_channel)
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


@torch.no_grad()
def set_ranges(student: nn.Module, images: torch.Tensor, rule: observers.Rule) -> nn.Module:
    """Every input range of `student` by `rule`, from one float forward pass over `images` [N, C, H, W]."""
    found = dict(quantized_layers(student))

    def note(name: str, x: torch.Tensor, _y: torch.Tensor) -> None:
        layer = found[name]
        low, high = rule(x, layer.act_bits)
        layer.low.copy_(low), layer.high.copy_(high), layer.batches.fill_(1)

    with output_hooks(student, found, note), evaluating(student), observing(student):
        student(images)
    return student


def _channel_means(model: nn.Module, names: list[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean output of the named layers, channel by channel."""
    means: dict[str, torch.Tensor] = {}

    def note(name: str, _x: torch.Tensor, y: torch.Tensor) -> None:
        means[name] = y.transpose(0, 1).flatten(1).mean(1)

    with output_hooks(model, names, note), evaluating(model):
        model(images)
    return means


@torch.no_grad()
def correct_bias(student: nn.Module, teacher: nn.Module, images: torch.Tensor) -> nn.Module:
    r"""Give every quantised layer back the mean that rounding took, layer after layer (Nagel and others, 2019, section 4.2).

    .. math:: b_c \leftarrow b_c + \mathrm{E}[y_c] - \mathrm{E}[\hat y_c]

    Args:
        student: quantised and calibrated; changed in place (layers without bias get one).
        teacher: the float network with the same names.
        images: [N, C, H, W], on which the means are taken; each layer sees what the corrected layers before it make.
    """
    names = [name for name, _ in quantized_layers(student)]
    wanted = _channel_means(teacher, names, images)
    for name, layer in quantized_layers(student):
        offset = wanted[name] - _channel_means(student, [name], images)[name]
        if layer.inner.bias is None:
            layer.inner.bias = nn.Parameter(torch.zeros_like(offset))
        layer.inner.bias += offset
    return student
