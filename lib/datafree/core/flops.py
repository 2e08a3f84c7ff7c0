"""What a network costs: parameters, multiply-accumulates (FLOPs are twice that), and bytes to store."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from .hooks import uses_of
from .quantized import QuantizedLayer, quantized_layers


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers and running statistics are not counted."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape`; FLOPs are twice that."""
    inside = {id(layer.core) for _, layer in quantized_layers(model)}  # counted with the quantised layer
    counted = {
        name: m.core.weight if isinstance(m, QuantizedLayer) else m.weight
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear | QuantizedLayer) and id(m) not in inside
    }
    # every value of an output is a sum over one row of the weight
    return sum(math.prod(use.made) * counted[use.name][0].numel() for use in uses_of(model, counted, shape))


def weight_bytes(model: nn.Module, widths: Mapping[str, int] | None = None) -> float:
    """Bytes to store the parameters: weights of quantised layers at their bit width, all else at 32 bits.

    widths: name of a plain layer whose weight is rounded -> bits of its weight.
    """
    bits = {id(layer.core.weight): layer.weight_bits for _, layer in quantized_layers(model)}
    bits |= {id(model.get_submodule(name).weight): width for name, width in (widths or {}).items()}
    return sum(p.numel() * bits.get(id(p), 32) for p in model.parameters()) / 8
