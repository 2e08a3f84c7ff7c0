"""Observers: ways to find the range of a layer's input from what is seen of it."""

from __future__ import annotations

import torch

from ..errors import DataFreeError
from . import quantizer, range_search
from .quantizer import Limits

# Ends of one batch ----------------------------------------------------------------------------------------------------


def extremes(x: torch.Tensor) -> Limits:
    """The smallest and the largest value."""
    return x.amin(), x.amax()


def chunk_extremes(x: torch.Tensor, chunk: int = 16) -> Limits:
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


PERCENTILE = 0.9995
"""Share of the values that a percentile range holds."""

SHRINKS = tuple(torch.linspace(0.3, 1.0, 29, device="cpu").tolist())
"""Shares of the extremes that `mse_range` tries."""


def percentile_range(x: torch.Tensor) -> Limits:
    """Ends that leave (1 - PERCENTILE) / 2 of the values outside on either side."""
    flat, outside = x.flatten(), (1 - PERCENTILE) / 2
    k = max(1, round(outside * flat.numel()))
    return flat.kthvalue(k).values, flat.kthvalue(flat.numel() - k + 1).values


def mse_range(x: torch.Tensor, bits: int) -> Limits:
    """Both extremes shrunk by the same factor, the one that leaves the least squared error on a grid that holds zero."""
    low, high = extremes(x)
    sample = x.flatten()[:: max(1, x.numel() // 2**17)]
    errors = []
    for shrink in SHRINKS:
        grid = quantizer.affine_grid(shrink * low, shrink * high, bits)
        errors.append((quantizer.round_to_grid(sample, grid) - sample).square().mean())
    best = SHRINKS[int(torch.stack(errors).argmin())]
    return best * low, best * high


# Ends over batches ----------------------------------------------------------------------------------------------------


class Observer:
    """Finds the ends of every batch that it observes; its range is their mean over the batches.

    bits: width that the range is for; only some observers look at it.
    """

    def __init__(self, bits: int = 8):
        self.bits, self.batches = bits, 0
        self.limits: Limits | None = None

    def ends(self, x: torch.Tensor) -> Limits:
        """Ends of one batch: two scalars."""
        raise NotImplementedError

    def joined(self, old: Limits, new: Limits) -> Limits:
        """The range so far, and the ends of one more batch, in one: here the mean of all batches."""
        return tuple(a + (b - a) / self.batches for a, b in zip(old, new))

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        """Take one batch into account."""
        ends = tuple(end.float() for end in self.ends(x.detach()))
        self.batches += 1
        self.limits = ends if self.limits is None else self.joined(self.limits, ends)

    def range(self) -> Limits:
        """Ends (l, h) after all that was observed: scalars."""
        if self.limits is None:
            raise DataFreeError("ranges were to be measured on no image at all; give at least one.")
        return self.limits


class MinMaxObserver(Observer):
    """The smallest and the largest value of all batches."""

    def ends(self, x):
        return extremes(x)

    def joined(self, old, new):
        return torch.minimum(old[0], new[0]), torch.maximum(old[1], new[1])


class MovingAverageMinMaxObserver(Observer):
    """Extremes of the first batch, moved towards those of each later one by the averaging constant."""

    def __init__(self, bits: int = 8, averaging_constant: float = 0.1):
        super().__init__(bits)
        self.averaging_constant = averaging_constant

    def ends(self, x):
        return extremes(x)

    def joined(self, old, new):
        return tuple(torch.lerp(a, b, self.averaging_constant) for a, b in zip(old, new))


class ChunkAverageObserver(Observer):
    """Mean over batches of the extremes of chunks of samples (The Knowledge Within, section 4.2)."""

    def __init__(self, bits: int = 8, chunk: int = 16):
        super().__init__(bits)
        self.chunk = chunk

    def ends(self, x):
        return chunk_extremes(x, self.chunk)


class PercentileObserver(Observer):
    """Mean over batches of the ends between which nearly all values lie."""

    def ends(self, x):
        return percentile_range(x)


class MSEObserver(Observer):
    """Mean over batches of the shrunk extremes with the least squared error."""

    def ends(self, x):
        return mse_range(x, self.bits)


class ExactSearchObserver(Observer):
    """Mean over batches of the best pair of figure 4 (Layer-Wise Data-Free CNN Compression, figure 4)."""

    def __init__(self, bits: int = 8, n: int = 100):
        super().__init__(bits)
        self.n = n

    def ends(self, x):
        return range_search.search_range(x, self.bits, self.n)
