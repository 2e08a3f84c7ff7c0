"""A measured number that knows its test images, so that two networks can be compared image by image.

Top-1 accuracy is the mean of one value a test image: 100 where the network is right, else 0. A difference of two
accuracies on the same images is again such a mean, and its scatter over the images is far smaller than that of either.
So numbers carry their values an image through sums, differences, products and quotients (to first order).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataFreeError


@dataclass(frozen=True, eq=False)
class Measured:
    """A number and its share of chance from the test images.

    value: in the unit of the metric.
    images: [N], one contribution a test image, whose mean is the value; None where it is not known.
    variance: of the value, where only that is known (an accuracy without its images), or on top of `images`.
    """

    value: float
    images: np.ndarray | None = field(default=None, repr=False)
    variance: float = 0.0

    @property
    def chance(self) -> float:
        """Variance that the test images bring; 0 where nothing is known of it."""
        return self.variance + (0.0 if self.images is None else float(self.images.var(ddof=1) / len(self.images)))

    def _combined(self, other: Measured | float, value: float, mine: float, theirs: float) -> Measured:
        """`value` with the contributions mine * (x_i - x) + theirs * (y_i - y): first order in both."""
        other = other if isinstance(other, Measured) else Measured(float(other))
        parts = [(mine, self), (theirs, other)]
        known = [(slope, m) for slope, m in parts if m.images is not None]
        if len({len(m.images) for _, m in known}) > 1:
            raise DataFreeError(
                "two metrics of different numbers of test images cannot be paired; measure both on one set."
            )
        images = value + sum(slope * (m.images - m.value) for slope, m in known) if known else None
        return Measured(value, images, sum(slope**2 * m.variance for slope, m in parts))

    def __add__(self, other):
        return self._combined(other, self.value + number(other), 1, 1)

    def __sub__(self, other):
        return self._combined(other, self.value - number(other), 1, -1)

    def __mul__(self, other):
        return self._combined(other, self.value * number(other), number(other), self.value)

    def __truediv__(self, other):
        y = number(other)
        if not y:
            raise DataFreeError("a share of nothing was asked for; the metric that is divided by is zero.")
        return self._combined(other, self.value / y, 1 / y, -self.value / y**2)

    def __neg__(self):
        return self * -1

    def __rsub__(self, other):
        return -self + other

    __radd__, __rmul__ = __add__, __mul__

    def __abs__(self):
        return self if self.value >= 0 else -self

    def __lt__(self, other):
        return self.value < number(other)

    def __float__(self):
        return float(self.value)


def number(x: Measured | float) -> float:
    """The value alone."""
    return x.value if isinstance(x, Measured) else float(x)


def mean(values: Iterable[Measured | float]) -> Measured:
    """Their mean: repetitions within one run are averaged, because they are not independent runs."""
    found = [v if isinstance(v, Measured) else Measured(float(v)) for v in values]
    return sum(found[1:], found[0]) / len(found)


def pack(right: Iterable[bool]) -> str:
    """Which images were right, as text: eight images a byte, deflated, base 85."""
    bits = np.fromiter(right, bool)
    return f"{len(bits)}:" + base64.b85encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    """[N] truth values that `pack` wrote; DataFreeError where the text is damaged."""
    try:
        count, _, body = text.partition(":")
        found = np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(body)), np.uint8))
        if not 0 <= len(found) - int(count) < 8:
            raise ValueError("wrong number of images")
        return found[: int(count)].astype(bool)
    except (ValueError, zlib.error) as error:
        raise DataFreeError(
            f"the packed test images of a record are damaged ({error}); run its notebook again."
        ) from None


def accuracy(right: np.ndarray) -> Measured:
    """Top-1 accuracy in percent from the images that were right."""
    images = 100.0 * np.asarray(right, float)
    return Measured(float(images.mean()), images)


def accuracy_without_images(percent: float, count: int) -> Measured:
    r"""An accuracy of which only the number was kept: variance of a binomial share, :math:`100^2\, p (1 - p) / N`.

    Differences of two such numbers are not paired, so their intervals are wider than they need be.
    """
    p = percent / 100
    return Measured(float(percent), None, 1e4 * p * (1 - p) / count)
