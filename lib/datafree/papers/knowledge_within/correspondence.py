"""The Knowledge Within, section 5: what a network knows of its data, and telling other inputs apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...core.hooks import evaluating
from ...data.images import ImageSet
from ...errors import DataFreeError


def loss_gradient_sign(
    model: nn.Module, images: ImageSet, labels: torch.Tensor | None = None, batch: int = 250
) -> torch.Tensor:
    r"""Direction of steepest ascent in the maximum norm: sign of the cross entropy's gradient.

    .. math:: \mathrm{sign}\,\nabla_x\, L\bigl(f(x), y\bigr)

    Args:
        labels: [N]; None takes the network's own predictions, so that images need no labels.
        batch: images a pass.
    Returns:
        [N, C, H, W] of -1, 0 and 1, as int8. Nothing in the model changes. Book: {ref}`kw-fgsm`.
    """
    if labels is not None and (len(labels) != len(images) or (labels < 0).any()):
        raise DataFreeError(f"'{images.name}' needs one label an image, none below zero; or leave labels out.")
    parts = []
    with evaluating(model):
        for start, (x, _) in zip(range(0, len(images), batch), images.batches(batch)):
            x.requires_grad_()
            logits = model(x)
            y = logits.argmax(1) if labels is None else labels[start : start + batch]
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
            parts.append(gradient.sign().to(torch.int8))
    return torch.cat(parts)


def fgsm(
    images: ImageSet, direction: torch.Tensor, epsilon: float, scale: torch.Tensor | float = 1.0, clip: bool = True
) -> ImageSet:
    r"""The fast gradient sign method of Goodfellow and others (2015).

    .. math:: x' = \mathrm{clip}\bigl(x + \epsilon\, s \odot \mathrm{sign}\,\nabla_x L,\; 0,\; 1\bigr)

    Args:
        images: x in [0, 1].
        direction: [N, C, H, W] from `loss_gradient_sign`.
        epsilon: largest change of a value, in units of `scale`.
        scale: s, [C] or a number: 1 measures epsilon in pixels of [0, 1], the standard deviations of the
            input normalisation measure it in the network's own units.
        clip: keep the result a picture.
    Returns:
        images of the same labels. Book: {ref}`kw-fgsm`.
    """
    if not 0 <= epsilon < float("inf"):
        raise DataFreeError(f"epsilon is {epsilon}; give a number of at least zero.")
    step = epsilon * torch.as_tensor(scale, dtype=torch.float32, device=images.pixels.device).reshape(1, -1, 1, 1)
    moved = images.floats() + step * direction
    return replace(images, pixels=moved.clamp_(0, 1) if clip else moved, name=f"{images.name}, FGSM {epsilon:g}")


def roc(inside: torch.Tensor, outside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares called 'outside' when everything above a threshold is: (false alarms, hits), from (0, 0) to (1, 1).

    Args:
        inside, outside: scores [M] and [N]; high should mean outside. Equal scores move the curve in one step.
    """
    from sklearn.metrics import roc_curve  # takes two seconds, and `import datafree` passes here

    alarms, hits, _ = roc_curve(*_labelled(inside, outside), drop_intermediate=False)
    return torch.from_numpy(alarms), torch.from_numpy(hits)


def roc_area(inside: torch.Tensor, outside: torch.Tensor) -> float:
    """Area under `roc`: the chance that an outside score is above an inside one, ties counted half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_labelled(inside, outside)))


def _labelled(inside: torch.Tensor, outside: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(1 for outside and 0 for inside, score) for all of them, as scikit-learn wants it."""
    for scores in (inside, outside):
        if not len(scores) or not torch.isfinite(scores).all():
            raise DataFreeError("scores to compare must be finite numbers, at least one a set.")
    return np.repeat((0, 1), (len(inside), len(outside))), torch.cat((inside, outside)).cpu().numpy()


def mean_prediction(logits: torch.Tensor, hard: bool = False) -> torch.Tensor:
    r"""What a network makes of a set of images on average, class by class (The Knowledge Within, section 5).

    .. math:: \bar p = \frac1n\sum_i \mathrm{softmax}(z_i)
              \quad\text{or}\quad \frac1n\sum_i \mathbb 1[k = \mathrm{argmax}\, z_i]

    Args:
        logits: z, [n, K], outputs of the final linear layer.
        hard: count the likeliest class of each image in place of its probabilities.
    Returns:
        [K], sums to one. Book: {ref}`kw-mean-prediction`.
    """
    if not hard:
        return logits.softmax(1).mean(0)
    return F.one_hot(logits.argmax(1), logits.shape[1]).float().mean(0)


def effective_classes(share: torch.Tensor) -> float:
    r"""Number of equally frequent classes with the entropy of `share`: :math:`\exp\bigl(-\sum_k p_k \log p_k\bigr)`."""
    return torch.special.entr(share).sum().exp().item()
