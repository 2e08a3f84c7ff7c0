"""The best range of a uniform quantiser by exact search: sort the values once, then only look up sums.

A quantiser with 2^b levels cuts the real line at 2^b - 1 thresholds. Between two of them all values go to one level q,
and the squared error of these is sum(x^2) - 2 q sum(x) + q^2 n. With sorted values and their running sum, sum(x) and n
of each interval are differences of two looked-up entries, whatever the number of values.
"""

from __future__ import annotations

import numpy as np
import torch

from ..errors import DataFreeError
from . import quantizer
from .quantizer import Limits

CELLS = 2**18
"""Entries of the table that says where a search begins; more cells, fewer steps."""

CHUNK = 2**16
"""Thresholds handled at once: few enough for the processor's cache, many enough for NumPy."""


class SortedValues:
    """Values in order, their running sum, and a table of where each part of the range begins."""

    def __init__(self, values: np.ndarray):
        self.values = np.sort(values.astype(np.float32, copy=False).ravel())
        self.sums = np.concatenate([[0.0], np.cumsum(self.values, dtype=np.float64)])
        self.squares = float(np.square(self.values, dtype=np.float64).sum())
        self.low, self.high = float(self.values[0]), float(self.values[-1])
        cells = min(CELLS, max(1, len(self.values) // 8)) if self.high > self.low else 1
        self.width = max((self.high - self.low) / cells, np.finfo(np.float64).tiny)
        edges = self.low + self.width * np.arange(1, cells)
        self.begin = np.concatenate([[0], np.searchsorted(self.values, edges), [len(self.values)]])

    def below(self, thresholds: np.ndarray) -> np.ndarray:
        """How many values lie below each threshold (those equal to it do not)."""
        cells = len(self.begin) - 1
        with np.errstate(over="ignore"):  # a width of nearly nothing: infinity is clipped
            cell = np.clip((thresholds - self.low) / self.width, 0, cells - 1).astype(np.int64)
        # rounding may put a threshold one cell off, so the search spans the neighbours too
        left, right = self.begin[np.maximum(cell - 1, 0)], self.begin[np.minimum(cell + 2, cells)]
        while (open_ := left < right).any():
            middle = (left + right) // 2
            smaller = self.values[np.minimum(middle, len(self.values) - 1)] < thresholds
            left = np.where(open_ & smaller, middle + 1, left)
            right = np.where(open_ & ~smaller, middle, right)
        return left

    def errors(self, low: np.ndarray, high: np.ndarray, bits: int) -> np.ndarray:
        """Squared error of the quantiser on [low, high] with 2^bits levels, summed over all values, for each pair [P].

        A range without width sends all values to `low`.
        """
        found, most = [], max(1, CHUNK // 2**bits)
        for start in range(0, len(low), most):
            found.append(self._errors(low[start : start + most], high[start : start + most], bits))
        return np.concatenate(found)

    def _errors(self, low: np.ndarray, high: np.ndarray, bits: int) -> np.ndarray:
        step = (high - low) / (2**bits - 1)
        levels = low[:, None] + step[:, None] * np.arange(2**bits)
        cuts = low[:, None] + step[:, None] * (np.arange(2**bits - 1) + 0.5)
        where = np.pad(self.below(cuts.ravel()).reshape(cuts.shape), ((0, 0), (1, 1)))
        where[:, -1] = len(self.values)
        count, total = np.diff(where, axis=1), np.diff(self.sums[where], axis=1)
        return self.squares + (levels * (levels * count - 2 * total)).sum(1)


def _candidates(x_min: float, x_max: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """l and h of all pairs of figure 4, h in the outer loop; where one end is stuck at zero its loop has one turn."""
    shares = np.arange(1, n + 1) / n
    high = shares * max(x_max, 0.0) if x_max > 0 else np.zeros(1)
    low = shares * min(x_min, 0.0) if x_min < 0 else np.zeros(1)
    return np.tile(low, len(high)), np.repeat(high, len(low))


@torch.no_grad()
def search_range(x: torch.Tensor, bits: int, n: int = 100) -> Limits:
    r"""The range with the least squared error, over shrunk extremes (Layer-Wise Data-Free CNN Compression, figure 4).

    .. math:: \min_{i, j} \bigl\| X - Q(X; l_j, h_i) \bigr\|_2, \qquad
              h_i = \tfrac iN \max(x_{\max}, 0),\quad l_j = \tfrac jN \min(x_{\min}, 0)

    The same pair as `search_range_by_loops`, without its N^2 sweeps over X: see `SortedValues`.

    Args:
        x: any shape. n: N.
    Returns:
        l and h, scalars; both zero for an input that is zero throughout. Book: {ref}`lw-search`.
    """
    if not x.numel() or not torch.isfinite(x).all():
        raise DataFreeError(
            "a range was to be found for values that are NaN, infinite or none at all; look at the layer before."
        )
    values = SortedValues(x.detach().cpu().numpy())
    low, high = _candidates(values.low, values.high, n)
    best = int(values.errors(low, high, bits).argmin())
    return x.new_tensor(low[best]), x.new_tensor(high[best])


@torch.no_grad()
def search_range_by_loops(x: torch.Tensor, bits: int, n: int = 100) -> Limits:
    """Figure 4 as it is printed: quantise all of X for every pair (Layer-Wise Data-Free CNN Compression, figure 4).

    Slow; here to check `search_range` and to compare with.
    """
    best, found = float("inf"), (x.new_zeros(()), x.new_zeros(()))
    for i in range(1, n + 1):
        high = i / n * x.max().clamp_min(0)
        for j in range(1, n + 1):
            low = j / n * x.min().clamp_max(0)
            q = quantizer.round_to_grid(x, quantizer.affine_grid(low, high, bits, zero_on_grid=False))
            error = (q - x).square_().sum(dtype=torch.float64).item()
            if error < best:
                best, found = error, (low, high)
    return found
