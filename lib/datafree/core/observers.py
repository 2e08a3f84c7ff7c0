"""Ways to find the range of an activation from what is observed of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import quantizer


def chunk_extremes(x: torch.Tensor, chunk: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Smoothed range: extremes of each chunk of samples, averaged (The Knowledge Within, section 4.2).

    .. math:: l = \frac1K\sum_k \min_{i \in \text{chunk } k} x_i, \quad h = \frac1K\sum_k \max_{i \in \text{chunk } k} x_i

    Args:
        x: [N, ...]; a last chunk with fewer than `chunk` samples is left out unless it is the only one.
    Returns:
        two scalars, in units of x. Book: {ref}`kw-range`.
    """
    whole = len(x) // chunk * chunk or len(x)
    parts = x[:whole].reshape(max(1, whole // chunk), -1) if x[:whole].is_contiguous() else _rows(x[:whole], chunk)
    return parts.amin(1).float().mean(), parts.amax(1).float().mean()  # aminmax(dim=1) is far slower


def _rows(x: torch.Tensor, chunk: int) -> torch.Tensor:
    """[K, everything of chunk k] of a channels-last tensor without moving its memory."""
    x = x.permute(0, 2, 3, 1) if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else x
    return x.reshape(max(1, len(x) // chunk), -1)


Rule = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""(a layer's input, bits) -> ends of its range."""

PERCENTILE = 0.9995
"""Share of the values that a percentile range holds."""

SHRINKS = torch.linspace(0.3, 1.0, 29)
"""Shares of the extremes that `mse_range` tries."""


def extremes(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and the largest value."""
    return x.amin(), x.amax()


def percentile_range(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends that leave (1 - PERCENTILE) / 2 of the values outside on either side."""
    flat, outside = x.flatten(), (1 - PERCENTILE) / 2
    k = max(1, round(outside * flat.numel()))
    return flat.kthvalue(k).values, flat.kthvalue(flat.numel() - k + 1).values


def mse_range(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both extremes shrunk by the same factor, the one that leaves the least squared error of rounding."""
    low, high = extremes(x, bits)
    sample = x.flatten()[:: max(1, x.numel() // 2**17)]
    errors = []
    for shrink in SHRINKS:
        scale, zero = quantizer.affine_parameters(shrink * low, shrink * high, bits)
        errors.append((quantizer.round_to_grid(sample, scale, zero, bits) - sample).square().mean())
    best = SHRINKS[torch.stack(errors).argmin()]
    return best * low, best * high
