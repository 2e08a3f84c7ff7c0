"""ACIQ (Banner et al., 2019): ranges cut where the error of cutting and of rounding together is least, by formula.

Taken over is the clipping of activations, with moments from BatchNorm in place of measured ones, so that no image is
needed. The paper's other half, another width for each channel, does not fit one width a tensor.
"""

from __future__ import annotations

import functools
import math

import torch
from scipy import optimize, stats
from torch import nn

from ..core import quantized
from ..core.batchnorm import NamedMoments
from ..core.graph import Feed, Graph
from . import dfq


def clipping_error(alpha: float, bits: float) -> float:
    r"""Expected squared error of a standard normal value cut at +-alpha and rounded (ACIQ, Banner et al., 2019, eq. 5).

    .. math:: 2 \int_\alpha^\infty (x - \alpha)^2 \varphi(x)\, dx + \frac{\alpha^2}{3 \cdot 4^M}
              = 2 \bigl[(1 + \alpha^2)(1 - \Phi(\alpha)) - \alpha\varphi(\alpha)\bigr] + \frac{\alpha^2}{3 \cdot 4^M}

    Args:
        alpha: above zero, in deviations; bits: M.
    """
    cut = 2 * ((1 + alpha**2) * stats.norm.sf(alpha) - alpha * stats.norm.pdf(alpha))
    return float(cut + alpha**2 / (3 * 4**bits))


@functools.cache
def best_clip(bits: float) -> float:
    """alpha of the least `clipping_error`, in deviations: 2.55 for four bits."""
    return float(optimize.minimize_scalar(clipping_error, bounds=(0.1, 20), args=(bits,), method="bounded").x)


def _whole(feed: Feed, moments: NamedMoments, columns: int) -> tuple[float, float]:
    """Mean and deviation over all channels of what a tree yields."""
    mean, variance = dfq.gaussian(feed, moments, columns)
    # law of total variance
    return mean.mean().item(), math.sqrt((variance.mean() + mean.var(unbiased=False)).item())


def clipped_range(feed: Feed, moments: NamedMoments, columns: int, bits: int) -> tuple[float, float]:
    """l and h of a layer's input: the best clip on both sides of the mean; after ReLU from zero, with one bit more.

    A half of a normal distribution on a grid of M bits has the step of a whole one on M + 1 (Banner et al., section 2).
    """
    if feed.kind == "pool":
        return clipped_range(feed.terms[0], moments, columns, bits)
    rectified = feed.kind == "act"
    mean, deviation = _whole(feed.terms[0] if rectified else feed, moments, columns)
    reach = best_clip(bits + rectified) * deviation
    return (0.0, max(mean + reach, deviation)) if rectified else (mean - reach, mean + reach)


@torch.no_grad()
def set_ranges(student: nn.Module, graph: Graph, moments: NamedMoments) -> None:
    """Range of every quantised layer's input, in place: from moments alone, no image.

    Args:
        student: quantised, of the fused network that the moments belong to.
    """
    for part in graph.layers:
        layer = quantized.quantized_layer(student, part.name)
        layer.set_range(*clipped_range(graph.feeding(part.name), moments, part.inputs, layer.act_bits))
