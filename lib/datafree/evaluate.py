"""What a network is worth and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .compute import autocast
from .data import ImageSet
from .errors import DataFreeError
from .quantize import QuantizedLayer


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode within the block; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def hooked(handles: list) -> Iterator[None]:
    """Remove these hooks at the end of the block, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def pass_once(model: nn.Module, shape: tuple[int, int, int], handles: list) -> None:
    """One black image through the network in evaluation mode, for what the hooks of `handles` note; they are removed."""
    with hooked(handles), evaluating(model):
        model(torch.zeros(1, *shape))


@torch.no_grad()
def outputs(model: nn.Module, images: ImageSet, batch: int = 250, bf16: bool = False) -> torch.Tensor:
    """Logits [N, K] in evaluation mode; the model's mode is put back afterwards.

    Args:
        bf16: multiply in bfloat16; quantisers still round in float32.
    """
    with evaluating(model), autocast(bf16):
        return torch.cat([model(x).float() for x, _ in images.batches(batch)])


def topk(model: nn.Module, images: ImageSet, k: int = 1, batch: int = 250, bf16: bool = False) -> float:
    """Share of images, in percent, whose label is among the k largest outputs."""
    if images.labels.ndim > 1:
        raise DataFreeError(f"'{images.name}' labels pixels; use segmentation.mean_iou, accuracy is for whole images.")
    if (images.labels < 0).any():
        raise DataFreeError(f"'{images.name}' has images without labels; accuracy needs labels, agreement does not.")
    logits = outputs(model, images, batch, bf16)
    if images.labels.max() >= logits.shape[1]:
        raise DataFreeError(
            f"'{images.name}' has {int(images.labels.max()) + 1} classes, the network {logits.shape[1]}; use images of its classes."
        )
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * int((best == images.labels[:, None]).any(1).sum()) / len(images)


def top1(model: nn.Module, images: ImageSet, batch: int = 250, bf16: bool = False) -> float:
    """Top-1 accuracy in percent."""
    return topk(model, images, 1, batch, bf16)


def top5(model: nn.Module, images: ImageSet, batch: int = 250, bf16: bool = False) -> float:
    """Top-5 accuracy in percent."""
    return topk(model, images, 5, batch, bf16)


def class_accuracy(model: nn.Module, images: ImageSet, batch: int = 250) -> torch.Tensor:
    """Top-1 accuracy in percent of each class [K]; NaN where a class has no image."""
    hits = (outputs(model, images, batch).argmax(1) == images.labels).float()
    count = torch.bincount(images.labels, minlength=len(images.classes))
    return 100 * torch.bincount(images.labels, hits, minlength=len(images.classes)) / count


def agreement(model: nn.Module, reference: nn.Module, images: ImageSet, batch: int = 250) -> float:
    """Share of images, in percent, on which both networks choose the same class. Needs no labels."""
    a, b = (outputs(m, images, batch).argmax(1) for m in (model, reference))
    return 100 * int((a == b).sum()) / len(images)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values; buffers and running statistics are not counted."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape`; FLOPs are twice that."""
    total = 0

    def hook(module, _inputs, output):
        nonlocal total
        weight = module.inner.weight if isinstance(module, QuantizedLayer) else module.weight
        total += output.numel() * weight[0].numel()

    inner = {id(m.inner) for m in model.modules() if isinstance(m, QuantizedLayer)}
    counted = [
        m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | QuantizedLayer) and id(m) not in inner
    ]
    pass_once(model, shape, [module.register_forward_hook(hook) for module in counted])
    return total


def weight_bytes(model: nn.Module) -> float:
    """Bytes to store the parameters: weights of quantised layers at their bit width, all else at 32 bits."""
    widths = {
        id(getattr(m, "core", m.inner).weight): m.weight_bits for m in model.modules() if hasattr(m, "weight_bits")
    }
    return sum(p.numel() * widths.get(id(p), 32) for p in model.parameters()) / 8
