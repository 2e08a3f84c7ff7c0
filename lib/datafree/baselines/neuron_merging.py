"""Neuron Merging (Kim et al., 2020): a pruned channel goes to the one kept channel most like it."""

from __future__ import annotations

import torch
from torch import nn

THRESHOLD, LAM = 0.1, 0.85
"""The smallest cosine that is merged, and the weight of the cosine, from the authors' script for ResNet-56."""


def neuron_merging(
    weight: torch.Tensor, norm: nn.BatchNorm2d, keep: torch.Tensor, threshold: float = THRESHOLD, lam: float = LAM
) -> torch.Tensor:
    r"""Coefficients with which kept channels i stand in for all channels j (Neuron Merging, Kim et al., 2020, section 4).

    .. math:: s_{ij} = \frac{\|w_j\|}{\|w_i\|}\,\frac{\gamma_i / \sigma_i}{\gamma_j / \sigma_j}
              \text{ at } i = \mathrm{argmin}_i\; \lambda (1 - \cos(w_i, w_j)) + (1 - \lambda)\, b_{ij},
              \text{ zero elsewhere}

    with b the distance of the BatchNorm constants (`constant_distance`). A kept channel stands for itself. In the
    authors' code the running variance stands where the formula has the standard deviation, which is used here.

    Args:
        weight: w, [O, ...]; norm: the BatchNorm behind it; keep: [K], indices of the kept channels.
        threshold: channels whose best cosine is below it are not merged. lam: lambda.
    Returns:
        s, [K, O], in float64; a column of zeros where nothing is merged.
    """
    w = weight.detach().double().flatten(1)
    gamma, sigma = norm.weight.detach().double(), (norm.running_var.double() + norm.eps).sqrt()
    length = w.norm(dim=1).clamp_min(torch.finfo(w.dtype).tiny)
    cosine = (w[keep] @ w.T) / torch.outer(length[keep], length)  # cos(w_i, w_j), [K, O]
    ratio = length[None] / length[keep, None]  # |w_j| / |w_i|
    slope = gamma / sigma
    s = ratio * slope[keep, None] / slope[None]
    unlike = lam * (1 - cosine) + (1 - lam) * constant_distance(ratio, s, norm, keep)
    chosen = torch.zeros_like(s, dtype=torch.bool).scatter_(0, unlike.argmin(0, keepdim=True), True)
    merged = torch.where(chosen & (cosine >= threshold), s, 0.0)
    merged[:, keep] = torch.eye(len(keep), dtype=s.dtype, device=s.device)  # a kept channel stands for itself
    return merged


def constant_distance(ratio: torch.Tensor, s: torch.Tensor, norm: nn.BatchNorm2d, keep: torch.Tensor) -> torch.Tensor:
    r"""How far the BatchNorm constants of channels i and j are apart (Neuron Merging, Kim et al., 2020, section 4).

    .. math:: b_{ij} \propto \frac1{s_{ij}} \Bigl|\frac{\gamma_i}{\sigma_i}
              \Bigl(\frac{\|w_j\|}{\|w_i\|}\Bigl(\mu_j - \frac{\sigma_j \beta_j}{\gamma_j}\Bigr) - \mu_i\Bigr) + \beta_i\Bigr|

    Args:
        ratio: of the norms of the weights, [K, O]; s: as in `neuron_merging`, [K, O].
    Returns:
        b, [K, O], scaled to lie from 0 to 1 over the kept channels of each column.
    """
    gamma, beta, mu, var = (v.detach().double() for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    sigma = (var + norm.eps).sqrt()
    zero = mu - sigma * beta / gamma  # the input that BatchNorm sends to zero
    b = (gamma / sigma)[keep, None] * (ratio * zero[None] - mu[keep, None]) + beta[keep, None]
    b = b.abs() / s
    low, high = b.amin(0), b.amax(0)
    return (b - low) / (high - low).clamp_min(torch.finfo(b.dtype).tiny)
