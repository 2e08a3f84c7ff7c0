"""What a network is worth and what it costs."""

from __future__ import annotations

import torch
from torch import nn

from .data import ImageSet
from .errors import DataFreeError
from .quantize import QuantizedLayer


@torch.no_grad()
def outputs(model: nn.Module, images: ImageSet, batch: int = 500) -> torch.Tensor:
    """Logits [N, K] in evaluation mode; the model's mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        return torch.cat([model(x) for x, _ in images.batches(batch)])
    finally:
        model.train(was_training)


def topk(model: nn.Module, images: ImageSet, k: int = 1, batch: int = 500) -> float:
    """Share of images, in percent, whose label is among the k largest outputs."""
    if (images.labels < 0).any():
        raise DataFreeError(f"'{images.name}' has images without labels; accuracy needs labels, agreement does not.")
    best = outputs(model, images, batch).topk(k, dim=1).indices
    return 100 * int((best == images.labels[:, None]).any(1).sum()) / len(images)


def top1(model: nn.Module, images: ImageSet, batch: int = 500) -> float:
    """Top-1 accuracy in percent."""
    return topk(model, images, 1, batch)


def top5(model: nn.Module, images: ImageSet, batch: int = 500) -> float:
    """Top-5 accuracy in percent."""
    return topk(model, images, 5, batch)


def agreement(model: nn.Module, reference: nn.Module, images: ImageSet, batch: int = 500) -> float:
    """Share of images, in percent, on which both networks choose the same class. Needs no labels."""
    a, b = (outputs(m, images, batch).argmax(1) for m in (model, reference))
    return 100 * int((a == b).sum()) / len(images)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers and running statistics are not counted."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape`; FLOPs are twice that."""
    total, handles = 0, []

    def hook(module, _inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            total += output[0].numel() * fan_in
        else:
            total += module.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(hook))
    was_training = model.training
    try:
        model.eval()(torch.zeros(1, *shape))
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return total


def weight_bytes(model: nn.Module) -> float:
    """Bytes to store the parameters: weights of quantised layers at their bit width, all else at 32 bits."""
    widths = {id(m.inner.weight): m.weight_bits for m in model.modules() if isinstance(m, QuantizedLayer)}
    return sum(p.numel() * widths.get(id(p), 32) for p in model.parameters()) / 8
