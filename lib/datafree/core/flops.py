"""What a network costs: parameters, multiply-accumulates (FLOPs are twice that), and bytes to store."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .hooks import pass_once
from .quantized import QuantizedLayer, quantized_layers


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers and running statistics are not counted."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape`; FLOPs are twice that."""
    total = 0

    def hook(module, _inputs, output):
        nonlocal total
        layer = module.core if isinstance(module, QuantizedLayer) else module
        total += output.numel() * layer.weight[0].numel()  # each output is a sum over one filter

    inside = {id(layer.core) for _, layer in quantized_layers(model)}  # counted with the quantised layer
    kinds = nn.Conv2d | nn.Linear | QuantizedLayer
    counted = [m for m in model.modules() if isinstance(m, kinds) and id(m) not in inside]
    pass_once(model, shape, [module.register_forward_hook(hook) for module in counted])
    return total


def weight_bytes(model: nn.Module, widths: Mapping[str, int] | None = None) -> float:
    """Bytes to store the parameters: weights of quantised layers at their bit width, all else at 32 bits.

    widths: name of a plain layer whose weight is rounded -> bits of its weight.
    """
    bits = {id(layer.core.weight): layer.weight_bits for _, layer in quantized_layers(model)}
    bits |= {id(model.get_submodule(name).weight): width for name, width in (widths or {}).items()}
    return sum(p.numel() * bits.get(id(p), 32) for p in model.parameters()) / 8
