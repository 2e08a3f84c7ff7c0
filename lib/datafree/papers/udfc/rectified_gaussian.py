"""Moments of rectified Gaussians: what relu makes of the distribution that BatchNorm remembers.

X = relu(B), B ~ N(mean, std^2). Means, second moments and products of two correlated ones have closed forms;
the only special function is Owen's T. Everything is computed in float64, for arrays of any shape.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import ndtr, owens_t

from ...errors import DataFreeError

RHO_MAX = 1 - 1e-9
"""Correlations are kept this far from one, where the formulas divide by sqrt(1 - rho^2)."""

TINY = 1e-12
"""Stands for a mean or a standard deviation of exactly zero, which the formulas divide by."""


def _density(h: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * h * h) / np.sqrt(2 * np.pi)


def _array(x) -> np.ndarray:
    return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float64)


def _not_zero(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < TINY, TINY, x)


def bivariate_cdf(h, k, rho) -> np.ndarray:
    r"""P(U <= h, V <= k) for standard normal U, V with correlation rho, by Owen's T.

    .. math:: \Phi_2 = \tfrac12\bigl(\Phi(h) + \Phi(k)\bigr)
              - T\Bigl(h, \tfrac{k - \rho h}{h\sqrt{1-\rho^2}}\Bigr)
              - T\Bigl(k, \tfrac{h - \rho k}{k\sqrt{1-\rho^2}}\Bigr) - \tfrac12 [hk < 0]

    Args:
        h, k, rho: arrays that broadcast; |rho| <= 1.
    Returns:
        probabilities, of their common shape. Book: {ref}`ud-bivariate`.
    """
    h, k, rho = _not_zero(_array(h)), _not_zero(_array(k)), np.clip(_array(rho), -RHO_MAX, RHO_MAX)
    root = np.sqrt(1 - rho * rho)
    # (Phi(h) + Phi(k)) / 2, less a half where h and k differ in sign
    total = 0.5 * (ndtr(h) + ndtr(k)) - 0.5 * (h * k < 0)
    value = total - owens_t(h, (k - rho * h) / (h * root)) - owens_t(k, (h - rho * k) / (k * root))
    return np.clip(value, 0, 1)


def first_moments(mean, std) -> tuple[np.ndarray, np.ndarray]:
    r"""E[X] and E[X^2] of X = relu(B), B ~ N(mean, std^2).

    .. math:: E[X] = m\,\Phi(m/\sigma) + \sigma\,\varphi(m/\sigma), \qquad
              E[X^2] = (m^2 + \sigma^2)\,\Phi(m/\sigma) + m\sigma\,\varphi(m/\sigma)

    Args:
        mean, std: arrays of one shape; std >= 0.
    Returns:
        two arrays of that shape, in units of B and of its square. Book: {ref}`ud-rectified`.
    """
    mean, std = _array(mean), _array(std)
    if (std < 0).any():
        raise DataFreeError(f"a standard deviation is {std.min():.3g}; it must not be below zero.")
    # a constant channel: relu of its mean
    std = np.maximum(std, TINY)
    p, d = ndtr(mean / std), _density(mean / std)
    return mean * p + std * d, (mean**2 + std**2) * p + mean * std * d


def product(mean_a, std_a, mean_b, std_b, rho) -> np.ndarray:
    r"""E[X Y] of two rectified Gaussians whose Gaussians have correlation rho.

    With h = m_a / sigma_a and k = m_b / sigma_b, and the bivariate normal's distribution and density,

    .. math:: \frac{E[XY]}{\sigma_a\sigma_b} = (hk + \rho)\,\Phi_2(h, k; \rho)
              + h\,\varphi(k)\,\Phi\Bigl(\tfrac{h - \rho k}{\sqrt{1-\rho^2}}\Bigr)
              + k\,\varphi(h)\,\Phi\Bigl(\tfrac{k - \rho h}{\sqrt{1-\rho^2}}\Bigr)
              + (1-\rho^2)\,\varphi_2(h, k; \rho)

    Args:
        mean_a, std_a, mean_b, std_b, rho: arrays that broadcast.
    Returns:
        an array of their common shape. Book: {ref}`ud-rectified`.
    """
    std_a, std_b = (np.maximum(_array(s), TINY) for s in (std_a, std_b))
    rho = np.clip(_array(rho), -RHO_MAX, RHO_MAX)
    h, k = _array(mean_a) / std_a, _array(mean_b) / std_b
    root = np.sqrt(1 - rho * rho)
    both = np.exp(-0.5 * (h * h - 2 * rho * h * k + k * k) / root**2) / (2 * np.pi * root)
    tails = h * _density(k) * ndtr((h - rho * k) / root) + k * _density(h) * ndtr((k - rho * h) / root)
    return std_a * std_b * ((h * k + rho) * bivariate_cdf(h, k, rho) + tails + root**2 * both)


def covariance(mean, std, rho) -> tuple[torch.Tensor, torch.Tensor]:
    """Means [C] and covariances [C, C] (float64) of rectified Gaussians with the correlation matrix `rho` [C, C].

    Book: {ref}`ud-rectified`.
    """
    means, std, rho = _array(mean), _array(std), _array(rho)
    if rho.shape != (len(means), len(means)):
        raise DataFreeError(f"{len(mean)} means came with correlations of shape {rho.shape}; give a square matrix.")
    first, second = first_moments(means, std)
    products = product(means[:, None], std[:, None], means[None], std[None], rho)
    # E[X^2], where the formula for two variables would divide by sqrt(1 - 1)
    np.fill_diagonal(products, second)
    place = mean.device if isinstance(mean, torch.Tensor) else "cpu"
    return tuple(torch.from_numpy(found).to(place) for found in (first, products - np.outer(first, first)))
