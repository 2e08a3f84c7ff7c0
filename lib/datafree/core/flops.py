"""What a network costs: parameters, multiply-accumulates (FLOPs are twice that), and bytes to store."""

from __future__ import annotations

import math

import torch
from torch import nn

from . import quantized
from .hooks import uses_of


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers and running statistics are not counted."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape`; FLOPs are twice that."""
    inner = {id(m.inner) for m in model.modules() if isinstance(m, quantized.QuantizedLayer)}
    counted = {
        name: m.inner.weight if isinstance(m, quantized.QuantizedLayer) else m.weight
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear | quantized.QuantizedLayer) and id(m) not in inner
    }
    # every value of an output is a sum over one row of the weight
    return sum(math.prod(use.made) * counted[use.name][0].numel() for use in uses_of(model, counted, shape))


def weight_bytes(model: nn.Module) -> float:
    """Bytes to store the parameters: weights of quantised layers at their bit width, all else at 32 bits."""
    widths = {
        id(getattr(m, "core", m.inner).weight): m.weight_bits for m in model.modules() if hasattr(m, "weight_bits")
    }
    return sum(p.numel() * widths.get(id(p), 32) for p in model.parameters()) / 8
