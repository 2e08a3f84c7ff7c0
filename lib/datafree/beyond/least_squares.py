"""What a layer receives, as rows, and the weights that answer to damaged rows as the layer answered to whole ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..papers.udfc.moment_matching import GRID, JointMoments, match, of_samples


def patches(x: torch.Tensor, layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """What the kernel of a layer sees at a grid of places, as rows [groups, samples, columns].

    Args:
        x: the layer's input, [N, C, H, W] or [N, C]; at most GRID x GRID places an image are taken.
    Returns:
        `patches(x, layer)[g] @ layer.weight[outputs of g].flatten(1).T` is the layer's output at these places, without bias.
    """
    if isinstance(layer, nn.Linear):
        return x[None]
    (top, left), (height, width) = layer.padding, layer.kernel_size
    x = F.pad(x, (left, left, top, top))
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size)]
    sides = [(size - span) // s + 1 for size, span, s in zip(x.shape[2:], spans, layer.stride)]
    steps = [max(1, side // GRID) for side in sides]
    # the grid begins half a step from the border, so that borders count no more than they do
    down, across = (step // 2 * s for step, s in zip(steps, layer.stride))
    strides = [step * s for step, s in zip(steps, layer.stride)]
    seen = F.unfold(
        x[:, :, down:, across:].contiguous(), (height, width), layer.dilation, stride=strides
    )  # [N, C k k', L]
    return seen.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def wanted(x: torch.Tensor, layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """What a layer makes of its input at the places of `patches`, without bias: [groups, samples, outputs of a group]."""
    weight = layer.weight.detach().flatten(1).unflatten(0, (getattr(layer, "groups", 1), -1))
    return patches(x, layer) @ weight.transpose(1, 2)


def refit(
    rows: torch.Tensor, answer: torch.Tensor, prior: torch.Tensor, ridge: float
) -> tuple[torch.Tensor, JointMoments]:
    r"""The weight that makes of what arrives now what the layer made of what arrived before any damage.

    .. math:: \hat W = P + (C_{y\hat x} - P \hat C)(\hat C + \lambda \bar c I)^{-1}

    minimises E ||y - W' x_hat - t||^2 + lambda c ||W' - P||^2: `match` of UDFC's chapter with the layer's own output y in
    the place of its input's channels.

    Args:
        rows: x_hat [samples, n], patches of what arrives now. answer: y [samples, O], before any damage.
        prior: P [O, n], the weight as it is. ridge: lambda, without unit.
    Returns:
        W_hat [O, n] (P where x_hat is constant), and the moments of x_hat and y, for whoever damages W_hat next. Book: {ref}`by-refit`.
    """
    moments = of_samples(rows, answer)
    if not moments.cov_hat.diagonal().any():  # nothing arrives that varies, so nothing can be learned from it
        return prior, moments
    coefficients, _ = match(moments, prior.double().T, ridge)
    return coefficients.T.to(prior.dtype), moments
