"""What a network is worth: accuracy, agreement, and the mean intersection over union."""

from __future__ import annotations

import torch
from torch import nn

from ..data.images import ImageSet
from ..errors import DataFreeError
from .hooks import device_of, evaluating
from .precision import autocast


@torch.no_grad()
def outputs(model: nn.Module, images: ImageSet, batch: int = 250, bf16: bool = False) -> torch.Tensor:
    """Logits [N, K] in evaluation mode; the model's mode is put back afterwards.

    Args:
        bf16: multiply in bfloat16; quantisers still round in float32.
    """
    with evaluating(model), autocast(bf16):
        return torch.cat([model(x).float() for x, _ in images.batches(batch)])


@torch.no_grad()
def hits(
    model: nn.Module, images: ImageSet, ks: tuple[int, ...] = (1,), batch: int = 250, bf16: bool = False
) -> list[torch.Tensor]:
    """For each k which images [N] have their label among the k largest outputs; one pass for all."""
    if images.labels.ndim > 1:
        raise DataFreeError(f"'{images.name}' labels pixels; use metrics.mean_iou, accuracy is for whole images.")
    if (images.labels < 0).any():
        raise DataFreeError(f"'{images.name}' has images without labels; accuracy needs labels, agreement does not.")
    logits = outputs(model, images, batch, bf16)
    if images.labels.max() >= logits.shape[1]:
        raise DataFreeError(
            f"'{images.name}' has {int(images.labels.max()) + 1} classes, the network {logits.shape[1]}; use images of its classes."
        )
    best = logits.topk(min(max(ks), logits.shape[1]), dim=1).indices  # [N, k], the largest first
    found = best == images.labels[:, None]
    return [found[:, :k].any(1) for k in ks]


def accuracies(
    model: nn.Module, images: ImageSet, ks: tuple[int, ...], batch: int = 250, bf16: bool = False
) -> list[float]:
    """For each k the share of images, in percent, whose label is among the k largest outputs; one pass for all."""
    return [100 * int(right.sum()) / len(images) for right in hits(model, images, ks, batch, bf16)]


def topk(model: nn.Module, images: ImageSet, k: int = 1, batch: int = 250, bf16: bool = False) -> float:
    """Share of images, in percent, whose label is among the k largest outputs."""
    return accuracies(model, images, (k,), batch, bf16)[0]


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


def agreeing(model: nn.Module, reference: nn.Module, images: ImageSet, batch: int = 250) -> torch.Tensor:
    """[N], true where both networks choose the same class. Needs no labels."""
    a, b = (outputs(m, images, batch).argmax(1) for m in (model, reference))
    return a == b


def agreement(model: nn.Module, reference: nn.Module, images: ImageSet, batch: int = 250) -> float:
    """Share of images, in percent, on which both networks choose the same class."""
    return 100 * int(agreeing(model, reference, images, batch).sum()) / len(images)


def confusion(predicted: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Pixels [classes, classes] by label (row) and prediction (column); labels below zero are left out.

    Counted by torch where the pixels are: scikit-learn's confusion_matrix, to which a test holds it, takes five times as
    long for a million pixels and needs them on the CPU.
    """
    labels, predicted = labels.flatten().long(), predicted.flatten().long()
    seen = labels >= 0
    pairs = labels[seen] * classes + predicted[seen]  # one number for each place of the table
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def class_iou(table: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each class in percent; NaN where neither labels nor predictions have it."""
    table = table.double()
    both = table.diagonal()  # the intersection; the union is what either has, counted once
    return 100 * both / (table.sum(0) + table.sum(1) - both)


@torch.no_grad()
def confusions_of(model: nn.Module, scenes: ImageSet, batch: int = 100, bf16: bool = False) -> torch.Tensor:
    """One `confusion` an image [N, classes, classes], of a network's most likely classes on labelled images."""
    if scenes.labels.ndim != 3:
        raise DataFreeError(f"'{scenes.name}' has one label an image; mean IoU needs one for every pixel.")
    tables = []
    with evaluating(model), autocast(bf16):
        for x, y in scenes.batches(batch):
            logits = model(x)
            if logits.shape[2:] != y.shape[1:] or logits.shape[1] <= y.max():
                raise DataFreeError(
                    f"the network gives {tuple(logits.shape[1:])} (classes, height, width), which does not fit "
                    f"the labels of '{scenes.name}': {int(y.max()) + 1} classes, {tuple(y.shape[1:])}."
                )
            tables += [confusion(*pair, logits.shape[1]) for pair in zip(logits.argmax(1), y)]
    return torch.stack(tables)


def iou_by_image(tables: torch.Tensor) -> torch.Tensor:
    r"""What each image adds to the mean IoU, to first order: the mean is the mean IoU, the scatter its chance of images.

    .. math:: m_n = \frac{100}{C} \sum_c \left( \frac{I_c}{U_c}
              + N\, \frac{i_{nc} - (I_c / U_c)\, u_{nc}}{U_c} \right)

    with intersections :math:`i` and unions :math:`u` of image n and class c, and their sums over images, I and U.

    Args:
        tables: [N, classes, classes] of `confusions_of`.
    Returns:
        [N] in percent; classes that occur nowhere do not count.
    """
    tables = tables.double()
    both = tables.diagonal(dim1=1, dim2=2)  # i [N, classes]
    either = tables.sum(1) + tables.sum(2) - both  # u, counted once what both have
    occurs = either.sum(0) > 0
    both, either = both[:, occurs], either[:, occurs]
    union = either.sum(0)  # U
    iou = both.sum(0) / union  # I / U
    moved = (both - iou * either) / union  # what image n adds to the IoU of class c, over N
    return 100 * (iou + len(tables) * moved).mean(1)


def mean_iou(model: nn.Module, scenes: ImageSet, batch: int = 100, bf16: bool = False) -> float:
    """Mean intersection over union in percent, over all pixels at once; classes that occur nowhere do not count."""
    return class_iou(confusions_of(model, scenes, batch, bf16).sum(0)).nanmean().item()


@torch.no_grad()
def count_classes(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Number of outputs of the network on one image."""
    with evaluating(model):
        return model(torch.zeros(1, *shape, device=device_of(model))).shape[1]
