"""Distances of feature maps that FRanDI's table 2 compares with its own; each takes a student's and a teacher's map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def fitnets(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Squared distance of the plain maps, the mean over images (FRanDI, table 2, after Romero et al., 2015).

    .. math:: \frac1{2N} \sum_i \|\tilde F_i - F_i\|_2^2

    Returns:
        a scalar, in squared units of the maps; it has no bound. Book: {ref}`fr-losses`.
    """
    return 0.5 * (student.float() - teacher.float()).square().sum() / len(student)


def attention(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Distance of normalised attention maps, the mean over images (FRanDI, table 2, after Zagoruyko and Komodakis, 2017).

    .. math:: \frac1N \sum_i \left\| \frac{a(\tilde F_i)}{\|a(\tilde F_i)\|_2} - \frac{a(F_i)}{\|a(F_i)\|_2} \right\|_2,
              \qquad a(F)_{hw} = \sum_c F_{chw}^2

    Returns:
        a scalar from 0 to the root of 2. Book: {ref}`fr-losses`.
    """
    s, t = (F.normalize(z.float().square().sum(1).flatten(1), dim=1) for z in (student, teacher))
    return (s - t).norm(dim=1).mean()


def overhaul(student: torch.Tensor, teacher: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    r"""OFD: squared distance to the teacher cut at a negative margin, not counted where both are negative and the
    student is below (FRanDI, table 2, after Heo et al., 2019).

    .. math:: \frac1N \sum_{t = \max(F, m)} \begin{cases} 0 & \tilde F \le t \le 0 \\ (\tilde F - t)^2 & \text{else} \end{cases}

    Args:
        margin: m, [C], the mean of the teacher's negative values in each channel.
    Returns:
        a scalar, in squared units of the maps. Book: {ref}`fr-losses`.
    """
    target = torch.maximum(teacher.float(), margin.view(1, -1, 1, 1))
    # left out: where the target is not above zero and the student is below it
    counted = (student > target) | (target > 0)
    return ((student.float() - target).square() * counted).sum() / len(student)


def negative_mean(norm: nn.BatchNorm2d) -> torch.Tensor:
    r"""OFD's margin: the mean of a channel's negative values, by BatchNorm's own law (FRanDI, table 2, after Heo et al., 2019).

    .. math:: m = \beta - |\gamma| \frac{\varphi(\beta / |\gamma|)}{\Phi(-\beta / |\gamma|)}

    Args:
        norm: its outputs are taken as normal with mean beta and deviation gamma.
    Returns:
        [C], never above zero. Book: {ref}`fr-losses`.
    """
    beta, gamma = norm.bias.detach().double(), norm.weight.detach().double().abs()
    tiny = torch.finfo(torch.float64).tiny
    ratio = beta / gamma.clamp_min(tiny)
    normal = torch.distributions.Normal(torch.zeros_like(ratio), torch.ones_like(ratio))
    below = normal.cdf(-ratio)  # Phi(-beta / |gamma|), the share of negative values
    mean = beta - gamma * normal.log_prob(ratio).exp() / below.clamp_min(tiny)
    return torch.where(below > tiny, mean, 0.0).clamp_max(0).float()
