"""The uniform quantiser: affine parameters, rounding, and its straight-through gradient."""

from __future__ import annotations

import torch


def affine_parameters(low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Step and zero point of an asymmetric quantiser whose grid holds zero (Krishnamoorthi, section 2.1).

    .. math:: s = \frac{\max(h, 0) - \min(l, 0)}{2^b - 1}, \quad n_0 = \mathrm{round}(-\min(l, 0) / s)

    Args:
        low, high: ends of the range, of any equal shape.
        bits: b.
    Returns:
        s (units of the input) and n_0 (integer, as int32), of the same shape. Book: {ref}`kw-quantizer`.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(torch.finfo(torch.float32).tiny * 2**bits)
    return scale, (-low / scale).round().to(torch.int32)


@torch.no_grad()
def round_to_grid(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """The values of `fake_quantize` without its gradient, in four sweeps over one new tensor; x is not changed."""
    x = torch.div(x.float(), scale).round_()
    return x.clamp_(-zero_point, 2**bits - 1 - zero_point).mul_(scale)


class _StraightThrough(torch.autograd.Function):
    """Rounding whose gradient is one (Bengio et al., 2013)."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def fake_quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    r"""Round to the grid and back, with straight-through gradient inside the range (The Knowledge Within, section 4.2).

    .. math:: Q(x) = s\,\bigl(\mathrm{clip}(\mathrm{round}(x / s) + n_0,\, 0,\, 2^b - 1) - n_0\bigr)

    Args:
        x: any shape; scale, zero_point: shapes that broadcast with it (per channel: [C, 1, 1, 1]).
        bits: b.
    Returns:
        the shape of x, with at most 2^b values a channel. Book: {ref}`kw-quantizer`.
    """
    integer = _StraightThrough.apply(x / scale) + zero_point
    return (integer.clamp(0, 2**bits - 1) - zero_point) * scale


class _FakeQuantizeTensor(torch.autograd.Function):
    """`fake_quantize` of a whole tensor for training: four sweeps forward, one backward, in the precision of the input."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, bits):
        step, zero, top = scale.item(), zero_point.item(), 2**bits - 1
        ctx.save_for_backward(x)
        ctx.ends = ((-zero - 0.5) * step, (top - zero + 0.5) * step)
        return x.div(step).round_().clamp_(-zero, top - zero).mul_(step)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, *ctx.ends), None, None, None


BF16_LEVELS = 4
"""Up to this width bfloat16 input is rounded in bfloat16: its eight significant bits place 2^4 levels to 1/16 of a step."""


def fake_quantize_tensor(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, bits: int) -> torch.Tensor:
    """`fake_quantize` with one range for the whole tensor, made for training: same values, same gradient, fewer sweeps.

    bfloat16 input of more than 4 bits is rounded in float32.
    """
    if x.dtype == torch.bfloat16 and bits > BF16_LEVELS:
        x = x.float()
    return _FakeQuantizeTensor.apply(x, scale, zero_point, bits)


def weight_range(weight: torch.Tensor, per_channel: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest weight of each output channel [O], or of the tensor (a scalar)."""
    flat = weight.detach().flatten(1) if per_channel else weight.detach().flatten()
    return flat.amin(-1), flat.amax(-1)


def quantize_weight(
    weight: torch.Tensor, bits: int, per_channel: bool = True, limits: tuple[torch.Tensor, torch.Tensor] | None = None
) -> torch.Tensor:
    """Fake-quantised weight [O, ...] by torch's fused kernels (same values as `fake_quantize`).

    Args:
        limits: smallest and largest weight as `weight_range` gives them; None: of this very weight.
    """
    scale, zero = affine_parameters(*(limits or weight_range(weight, per_channel)), bits)
    if per_channel:
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, 0, 2**bits - 1)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero, 0, 2**bits - 1)
