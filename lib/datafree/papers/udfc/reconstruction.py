"""UDFC, sections 3.2, 3.3 and 4: channels rebuilt from what is left, in closed form.

Of the paper only abstract and introduction are public to us. The equations here are our own derivation from its stated
assumption; docstrings name the section in which the paper announces the step.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn

from ...core import batchnorm
from ...core.graph import Graph, Pair
from ...errors import DataFreeError

ALPHA1, ALPHA2 = 0.01, 0.008
"""Weights of the BatchNorm and the activation residual, best in the paper as reported by a secondary source."""


# Sections 3.2, 3.3 and 4 ------------------------------------------------------------------------------------------


class Folded(NamedTuple):
    """What the channels of a pair compute before their activation: B_i = <a_i, patch> + c_i.

    a: [d, O], one column a channel; c: [O].
    """

    a: torch.Tensor
    c: torch.Tensor


def folded(net: nn.Module, graph: Graph, pair: Pair) -> Folded:
    r"""Weights and BatchNorm of a channel as one vector and one constant (UDFC, section 3.2).

    .. math:: a_i = \frac{\gamma_i}{\sigma_i}\,\mathrm{vec}(W_i), \qquad c_i = \beta_i - \frac{\gamma_i \mu_i}{\sigma_i}

    A depthwise layer behind it carries the channel through: its filter multiplies as an outer product,
    as if there were no activation in between. Equation ours, in float64. Book: {ref}`ud-folded`.
    """
    a, c = rows_and_constants(net, graph, pair.first)
    for name in pair.middle:
        kernel, constant = rows_and_constants(net, graph, name)
        # away from borders a constant channel c becomes c times the sum of its taps
        c = constant + kernel.sum(1) * c
        # each tap of the depthwise filter sees a shifted patch: one column block a tap
        a = (a[:, :, None] * kernel[:, None, :]).flatten(1)
    return Folded(a.T, c)


def rows_and_constants(net: nn.Module, graph: Graph, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [O, d] and constants [O] of one layer with its BatchNorm, in float64."""
    layer, norm = net.get_submodule(name), graph.layer(name).norm
    weight = layer.weight.detach().flatten(1).double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if norm is None:
        return weight, bias.double()
    scale, shift = (v.flatten().double() for v in batchnorm.affine(net.get_submodule(norm)))
    return weight * scale[:, None], bias.double() * scale + shift


def reconstruct(weight: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    r"""Input channels of the next layer, rebuilt from what is left (UDFC, section 3.2).

    .. math:: \hat V_i = \sum_j s_{ij} V_j

    Args:
        weight: V [P, O, ...] of layer l + 1.
        coefficients: s [K, O]; row i is what kept channel i takes over from every channel j.
    Returns:
        [P, K, ...]. Equation ours. Book: {ref}`ud-reconstruction`.
    """
    mixed = torch.einsum("pot,ko->pkt", weight.double().flatten(2), coefficients.double())
    return mixed.reshape(len(weight), len(coefficients), *weight.shape[2:]).to(weight.dtype)


def loss(s, left: Folded, a, c, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> torch.Tensor:
    r"""What a combination of the channels that are left misses of a damaged one (UDFC, section 3.3).

    .. math:: \ell(s) = \|a_j - \hat A s\|^2 + \alpha_1 (c_j - \hat c^\top s)^2 + \alpha_2 \|s\|^2

    Args:
        s: [K]; left: A_hat [d, K] and c_hat [K]; a, c: a_j [d] and the number c_j.
    Returns:
        a scalar. Equation ours. Book: {ref}`ud-loss`.
    """
    return (a - left.a @ s).square().sum() + alpha1 * (c - left.c @ s) ** 2 + alpha2 * s.square().sum()


def closed_form(left: Folded, lost: Folded, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> torch.Tensor:
    r"""The minimiser of the loss for all damaged channels of a layer at once (UDFC, section 4).

    .. math:: s_j = \bigl(\hat A^\top \hat A + \alpha_1 \hat c \hat c^\top + \alpha_2 I\bigr)^{-1}
                    \bigl(\hat A^\top a_j + \alpha_1 c_j \hat c\bigr)

    One Cholesky factor serves every column of `lost`.

    Args:
        left: A_hat [d, K], c_hat [K]; lost: a_j [d, J], c_j [J].
    Returns:
        [K, J]. Equation ours. Book: {ref}`ud-closed-form`.
    Raises:
        DataFreeError: alpha2 is zero and the channels that are left depend on each other.
    """
    factor, right = _normal_equations(left, lost, alpha1, alpha2)
    return torch.cholesky_solve(right, factor)


def _normal_equations(left: Folded, lost: Folded, alpha1: float, alpha2: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cholesky factor L [K, K] of half the Hessian, and the right sides [K, J]."""
    system = left.a.T @ left.a + alpha1 * torch.outer(left.c, left.c)
    # A'A + alpha_1 c c' + alpha_2 I: positive definite, so Cholesky
    system.diagonal().add_(alpha2)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise DataFreeError(
            f"the channels that are left depend on each other and alpha2 is {alpha2}; give alpha2 above zero."
        )
    return factor, left.a.T @ lost.a + alpha1 * torch.outer(left.c, lost.c)


def closed_form_nonnegative(left: Folded, lost: Folded, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> torch.Tensor:
    r"""The minimiser of the same loss among coefficients that are not negative (ours, after UDFC, section 4).

    .. math:: \min_{s \ge 0} \ell(s) = \min_{s \ge 0} \| L^\top s - L^{-1} b \|^2 + \text{const}, \qquad
              L L^\top = \hat A^\top \hat A + \alpha_1 \hat c \hat c^\top + \alpha_2 I, \quad
              b = \hat A^\top a_j + \alpha_1 c_j \hat c

    relu commutes with sums of one sign better than with mixed ones. Solved by active sets, column by column.

    Args:
        left, lost, alpha1, alpha2: as in `closed_form`.
    Returns:
        [K, J], nowhere below zero. Book: {ref}`ud-nonnegative`.
    """
    factor, right = _normal_equations(left, lost, alpha1, alpha2)
    wanted = torch.linalg.solve_triangular(factor, right, upper=False).numpy()  # L^-1 b
    columns = [nnls(factor.T.numpy(), column)[0] for column in wanted.T]
    return torch.from_numpy(np.stack(columns, 1))


def unified(keep: torch.Tensor, solved: torch.Tensor, damaged: torch.Tensor) -> torch.Tensor:
    r"""Pruning, quantisation, or both, in one matrix of coefficients (UDFC, section 3.2).

    .. math:: s_{ij} = \delta_{ij} \text{ for an undamaged } j, \text{ the solution otherwise}

    Args:
        keep: [K], channels that stay; solved: [K, O]; damaged: [O], true or false. Pruned channels are always damaged.
    Returns:
        [K, O]. Equation ours. Book: {ref}`ud-unified`.
    """
    return torch.where(damaged, solved, identity(keep, solved.shape[1], solved.dtype))


def identity(keep: torch.Tensor, channels: int, dtype=torch.float64) -> torch.Tensor:
    """[K, O]: every channel that stays stands for itself, a pruned one is lost."""
    return torch.eye(channels, dtype=dtype, device=keep.device)[keep]
