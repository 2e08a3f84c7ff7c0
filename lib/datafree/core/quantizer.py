r"""The uniform quantiser: grids, rounding to them, its straight-through gradient, and the same again in fewer sweeps.

A grid has 2^b evenly spaced levels s (I - n_0) + o, numbered I = 0 ... 2^b - 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

Limits = tuple[torch.Tensor, torch.Tensor]
"""Ends (l, h) of a range: scalars for one a tensor, or of a shape that broadcasts with what is rounded."""


class Grid(NamedTuple):
    """scale s (above zero), zero_point n_0 (integer) and origin o (the value of level n_0), all of one shape; bits b.

    A grid that holds zero has o = 0, one that starts at l has n_0 = 0 and o = l; that part is a plain number then.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor | int
    origin: torch.Tensor | float
    bits: int

    @property
    def top(self) -> int:
        """Number of the last level."""
        return 2**self.bits - 1


def affine_grid(low: torch.Tensor, high: torch.Tensor, bits: int, zero_on_grid: bool = True) -> Grid:
    r"""Grid over a range (Krishnamoorthi, section 2.1; Layer-Wise, section III-C).

    .. math:: s = \frac{\max(h, 0) - \min(l, 0)}{2^b - 1}, \quad n_0 = \mathrm{round}(-\min(l, 0) / s), \quad o = 0

    or, where zero need not be a level: s = (h - l) / (2^b - 1), n_0 = 0, o = l.

    Args:
        low, high: l and h, of any equal shape.
        bits: b.
        zero_on_grid: widen the range to zero and shift it so that zero is a level.
    Returns:
        s is above zero even where the range has no width. Book: {ref}`kw-quantizer`.
    """
    if zero_on_grid:
        low, high = low.clamp(max=0), high.clamp(min=0)
    s = ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(torch.float32).tiny * 2**bits)
    if zero_on_grid:
        return Grid(s, (-low / s).round().to(torch.int32), 0.0, bits)
    return Grid(s, 0, low, bits)


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is one (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def to_integers(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    r"""Number of the nearest level (Layer-Wise Data-Free CNN Compression, eq. 13).

    .. math:: I = \mathrm{clip}\Bigl(\mathrm{round}\Bigl(\frac{x - o}{s}\Bigr) + n_0,\, 0,\, 2^b - 1\Bigr)

    With o = l and n_0 = 0 this is eq. 13. Rounding passes its gradient straight through, clipping stops it.

    Args:
        x: any shape; the parts of `grid` broadcast with it.
    Returns:
        integers from 0 to 2^b - 1, as floats. Book: {ref}`lw-quantizer`.
    """
    steps = (x - grid.origin) / grid.scale  # (x - o) / s
    integers = _StraightThrough.apply(steps) + grid.zero_point
    return integers.clamp(0, grid.top)


def from_integers(integers: torch.Tensor, grid: Grid) -> torch.Tensor:
    r"""Value of a level (Layer-Wise Data-Free CNN Compression, eq. 14).

    .. math:: Q = s\,(I - n_0) + o

    With o = l and n_0 = 0 the first level is l and the last is h. Book: {ref}`lw-quantizer`.
    """
    return (integers - grid.zero_point) * grid.scale + grid.origin


def fake_quantize(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    r"""Round to the grid and back, with straight-through gradient inside the range (The Knowledge Within, section 4.2).

    .. math:: Q(x) = s\,\bigl(\mathrm{clip}(\mathrm{round}(x / s) + n_0,\, 0,\, 2^b - 1) - n_0\bigr)

    Args:
        x: any shape; the parts of `grid` broadcast with it (per channel: [C, 1, 1, 1]).
    Returns:
        the shape of x, with at most 2^b values a channel. Book: {ref}`kw-quantizer`.
    """
    return from_integers(to_integers(x, grid), grid)


# The same in fewer sweeps over memory -------------------------------------------------------------------------------


def _round(x: torch.Tensor, scale, zero_point, origin, top: int) -> torch.Tensor:
    """`fake_quantize` in place on one new tensor; a grid that holds zero has the number 0.0 as origin."""
    shifted = not isinstance(origin, float) or origin != 0.0
    x = torch.sub(x, origin).div_(scale) if shifted else torch.div(x, scale)
    x = x.round_().clamp_(-zero_point, top - zero_point).mul_(scale)
    return x.add_(origin) if shifted else x


@torch.no_grad()
def round_to_grid(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The values of `fake_quantize` without its gradient, in few sweeps over one new tensor; x is not changed."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return _round(x, grid.scale, grid.zero_point, grid.origin, grid.top)


class _FakeQuantizeTensor(torch.autograd.Function):
    """`fake_quantize` of a whole tensor for training: few sweeps forward, one backward, in the precision of the input."""

    @staticmethod
    def forward(ctx, x, grid):
        s, zero, origin = (v.item() if torch.is_tensor(v) else v for v in grid[:3])
        ctx.save_for_backward(x)
        # half a step beyond the first and the last level: where the integer begins to be clipped
        ctx.ends = (-zero - 0.5) * s + origin, (grid.top - zero + 0.5) * s + origin
        return _round(x, s, zero, origin, grid.top)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends), None


BF16_LEVELS = 4
"""Up to this width bfloat16 input is rounded in bfloat16: its eight significant bits place 2^4 levels to 1/16 of a step."""


def fake_quantize_tensor(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`fake_quantize` with one range for the whole tensor, made for training: same values, same gradient, fewer sweeps.

    bfloat16 input is rounded in float32 where it has more than 4 bits, or where the grid does not hold zero.
    """
    if x.dtype == torch.bfloat16 and (grid.bits > BF16_LEVELS or torch.is_tensor(grid.origin)):
        x = x.float()
    return _FakeQuantizeTensor.apply(x, grid)


# Weights ------------------------------------------------------------------------------------------------------------


def weight_range(weight: torch.Tensor, per_channel: bool = True) -> Limits:
    """Smallest and largest weight of each output channel [O, 1, ...], or of the tensor (a scalar)."""
    weight = weight.detach()
    if not per_channel:
        return weight.amin(), weight.amax()
    shape = (-1, *[1] * (weight.ndim - 1))
    return weight.flatten(1).amin(1).view(shape), weight.flatten(1).amax(1).view(shape)


def quantize_weight(
    weight: torch.Tensor, bits: int, per_channel: bool = True, zero_on_grid: bool = True, limits: Limits | None = None
) -> torch.Tensor:
    """Fake-quantised weight [O, ...], by the fastest way that has the values and the gradient of `fake_quantize`.

    Args:
        limits: smallest and largest weight as `weight_range` gives them; None: of this very weight.
    """
    grid = affine_grid(*(limits or weight_range(weight, per_channel)), bits, zero_on_grid)
    if zero_on_grid:
        return _fused(weight, grid)
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return round_to_grid(weight, grid)
    return fake_quantize(weight, grid) if grid.scale.ndim else fake_quantize_tensor(weight, grid)


def _fused(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """torch's own kernels, for grids that hold zero."""
    if grid.scale.ndim:
        ends = grid.scale.flatten(), grid.zero_point.flatten()
        return torch.fake_quantize_per_channel_affine(weight, *ends, 0, 0, grid.top)
    return torch.fake_quantize_per_tensor_affine(weight, grid.scale, grid.zero_point, 0, grid.top)
