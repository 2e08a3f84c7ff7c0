"""Errors of a uniform quantiser for many ranges at once, exact: sort the values once, then only look up sums.

A quantiser with 2^b levels cuts the real line at 2^b - 1 thresholds. Between two of them all values go to one level q,
and the squared error of these is sum(x^2) - 2 q sum(x) + q^2 n. With sorted values and their running sum, sum(x) and n
of each interval are differences of two looked-up entries, whatever the number of values.
"""

from __future__ import annotations

import numpy as np

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
