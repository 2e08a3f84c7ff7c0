"""Damage that is least where a layer's inputs lie: rounding and low rank, both measured by the covariance of what arrives."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..core import quantizer
from ..papers.frandi.factorization import Parts

SHRINKS = (1.0, 0.85, 0.7, 0.55)
"""Shares of a channel's extremes that are tried as ends of its range."""


def regularized(cov: torch.Tensor, ridge: float) -> torch.Tensor:
    """C + lambda c I in double precision, c the mean variance; for inputs that do not vary, a small multiple of I."""
    cov = cov.double()
    return cov + ridge * cov.diagonal().mean().clamp_min(1e-12) * torch.eye(
        len(cov), dtype=cov.dtype, device=cov.device
    )


def output_error(change: torch.Tensor, cov: torch.Tensor) -> torch.Tensor:
    r"""Mean squared change of a layer's output when its weight changes (ours).

    .. math:: \mathrm{E}\,\|\Delta\, (x - \bar x)\|^2 = \mathrm{diag}(\Delta\, C\, \Delta^\top)

    Args:
        change: Delta [O, n]. cov: C [n, n], of the layer's input.
    Returns:
        [O]. The mean of the change is left out: the next BatchNorm, or the bias, takes it. Book: {ref}`by-error`.
    """
    change = change.to(cov.dtype)
    return ((change @ cov) * change).sum(1)


class Rounded(NamedTuple):
    """weight [O, n] on its levels, and the ends (l, h) of each channel's range, [O, 1] both."""

    weight: torch.Tensor
    limits: quantizer.Limits


def round_in_turn(weight: torch.Tensor, cov: torch.Tensor, grid: quantizer.Grid) -> torch.Tensor:
    r"""Round column after column; the columns that are left make up for what rounding lost (OBS, in a fixed order).

    .. math:: w_k \leftarrow w_k - \frac{w_j - Q(w_j)}{U_{jj}}\, U_{jk} \quad (k > j), \qquad U^\top U = C^{-1}

    Args:
        weight: [O, n]. cov: C [n, n], positive definite. grid: of every row, [O, 1].
    Returns:
        [O, n], on the levels of the grid. Book: {ref}`by-rounding`.
    """
    order = cov.diagonal().argsort(
        descending=True
    )  # inputs that vary most first, while much is left to make up for them
    factor = torch.linalg.cholesky(torch.linalg.inv(cov[order][:, order]), upper=True).to(weight.dtype)
    left = weight[:, order].T.contiguous()  # a row a column, so that it lies together in memory
    found, grid = (
        torch.empty_like(left),
        grid._replace(scale=grid.scale.flatten(), zero_point=grid.zero_point.flatten()),
    )
    for j in range(len(left)):
        found[j] = quantizer.round_to_grid(left[j], grid)
        left[j:].addr_(factor[j, j:], left[j] - found[j], alpha=-1 / factor[j, j].item())
    return found[order.argsort()].T.contiguous()


def round_least(weight: torch.Tensor, cov: torch.Tensor, bits: int, shrinks: tuple[float, ...] = SHRINKS) -> Rounded:
    """For each channel the range, and the way to round, with the least `output_error`; nearest rounding is among them.

    Args:
        weight: [O, n]. cov: C [n, n], positive definite. bits: of the levels, zero among them.
    """
    low, high = (torch.cat([s * end for s in shrinks]) for end in quantizer.weight_range(weight))
    many, grid = weight.repeat(len(shrinks), 1), quantizer.affine_grid(low, high, bits)
    tried = torch.cat([round_in_turn(many, cov, grid), quantizer.round_to_grid(many, grid)])
    errors = output_error(tried - many.repeat(2, 1), cov).view(-1, len(weight))  # [ways, O]
    row = errors.argmin(0) * len(weight) + torch.arange(len(weight), device=weight.device)
    place = row % len(many)
    return Rounded(tried[row], (low[place], high[place]))


def column_cov(cov: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Covariance of what a column convolution sees [I D, I D], from that of whole patches: the mean over their columns."""
    _, i, height, width = shape
    blocks = cov.view(i, height, width, i, height, width)
    # [i, a, b, i', a', b] of every b
    return torch.stack([blocks[:, :, b, :, :, b] for b in range(width)]).mean(0).reshape(i * height, i * height)


def decompose_least(weight: torch.Tensor, cov: torch.Tensor) -> Parts:
    r"""A kernel's factors, of which the first R lose least of its output, not of its weights (ours).

    .. math:: C = L L^\top, \qquad L^\top M = U\, \mathrm{diag}(s)\, V^\top, \qquad
              \hat M_R = \sum_{k \le R} s_k\, (L^{-\top} u_k)\, v_k^\top

    minimises :math:`\|L^\top (M - \hat M)\|_F` over all matrices of rank R, with M of `frandi.factorization.decompose`.

    Args:
        weight: [O, I, D, D]. cov: C [I D, I D], positive definite, from `column_cov`.
    Returns:
        left [I D, K] (not orthogonal any more), values [K], right [K, O D], as `spatial_svd` takes them.
        Book: {ref}`by-rank`.
    """
    o, i, height, width = weight.shape
    matrix = weight.detach().to(cov.dtype).permute(1, 2, 0, 3).reshape(i * height, o * width)
    root = torch.linalg.cholesky(cov)
    left, values, right = torch.linalg.svd(root.T @ matrix, full_matrices=False)
    left = torch.linalg.solve_triangular(root.T, left, upper=True)
    return Parts(*(part.to(weight.dtype) for part in (left, values, right)))
