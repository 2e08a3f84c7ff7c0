"""Other ways to find the range of an activation than smoothed extremes, and the correction of a layer's bias.

None of them is The Knowledge Within's; its section 4.2 says that better calibration should add to its results.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from . import quantize
from .evaluate import evaluating, hooked

Rule = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""(a layer's input, bits) -> ends of its range."""

PERCENTILE = 0.9995
"""Share of the values that a percentile range holds."""

SHRINKS = torch.linspace(0.3, 1.0, 29)
"""Shares of the extremes that `mse_range` tries."""


def extremes(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest value."""
    return x.amin(), x.amax()


def percentile_range(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends that leave (1 - PERCENTILE) / 2 of the values outside on either side."""
    flat, outside = x.flatten(), (1 - PERCENTILE) / 2
    k = max(1, round(outside * flat.numel()))
    return flat.kthvalue(k).values, flat.kthvalue(flat.numel() - k + 1).values


def mse_range(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both extremes shrunk by the same factor, the one that leaves the least squared error of rounding."""
    low, high = extremes(x, bits)
    sample = x.flatten()[:: max(1, x.numel() // 2**17)]
    errors = []
    for shrink in SHRINKS:
        scale, zero = quantize.affine_parameters(shrink * low, shrink * high, bits)
        errors.append((quantize.round_to_grid(sample, scale, zero, bits) - sample).square().mean())
    best = SHRINKS[torch.stack(errors).argmin()]
    return best * low, best * high


@torch.no_grad()
def set_ranges(student: nn.Module, images: torch.Tensor, rule: Rule) -> nn.Module:
    """Every input range of `student` by `rule`, from one float forward pass over `images` [N, C, H, W]."""
    found = quantize.quantized_layers(student)

    def keep(layer):
        def hook(_module, inputs, _output):
            low, high = rule(inputs[0], layer.act_bits)
            layer.low.copy_(low), layer.high.copy_(high), layer.batches.fill_(1)

        return hook

    handles = [layer.register_forward_hook(keep(layer)) for _, layer in found]
    with hooked(handles), evaluating(student), quantize.observing(student):
        student(images)
    return student


def _channel_means(model: nn.Module, names: list[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean output of the named layers, channel by channel."""
    means: dict[str, torch.Tensor] = {}

    def keep(name):
        def hook(_module, _inputs, output):
            means[name] = output.transpose(0, 1).flatten(1).mean(1)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with hooked(handles), evaluating(model):
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
    names = [name for name, _ in quantize.quantized_layers(student)]
    wanted = _channel_means(teacher, names, images)
    for name, layer in quantize.quantized_layers(student):
        offset = wanted[name] - _channel_means(student, [name], images)[name]
        if layer.inner.bias is None:
            layer.inner.bias = nn.Parameter(torch.zeros_like(offset))
        layer.inner.bias += offset
    return student
