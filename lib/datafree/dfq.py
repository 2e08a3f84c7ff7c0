"""Tools of Data-Free Quantization (Nagel et al., 2019) that later papers take over."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .graph import Graph, Pair

SIGMAS = 3.0
"""Deviations below the mean that stay where they are when a bias is absorbed (Nagel et al., section 4.1.3)."""

Moments = dict[str, tuple[torch.Tensor, torch.Tensor]]


def absorbable(graph: Graph, pair: Pair) -> bool:
    """Whether a constant may move through the pair: nothing but ReLU between, and known moments before it."""
    return pair.acts == ("relu",) and graph.layer(pair.first).norm is not None


@torch.no_grad()
def absorb_bias(model: nn.Module, graph: Graph, moments: Moments) -> tuple[nn.Module, Moments]:
    r"""Move what ReLU never cuts off into the next layer's bias (Nagel et al., section 4.1.3).

    .. math:: c = \max(0, \beta - 3\gamma),\quad b_1 \to b_1 - c,\quad b_2 \to b_2 + W_2 c,\quad \beta \to \beta - c

    As relu(x - c) = relu(x) - c wherever x > c, the function stays nearly as it was: it differs where a value falls
    below c, and at the borders, where zero padding brings no c.

    Args:
        model: fused (and equalised); not changed. Pairs with buffers between them are left out.
        moments: mean and deviation of the output of each layer's BatchNorm, as the model now has it.
    Returns:
        a copy, and its moments.
    """
    model, moments = copy.deepcopy(model), dict(moments)
    for pair in graph.neighbours():
        first, last = model.get_submodule(pair.first), model.get_submodule(pair.last)
        if not absorbable(graph, pair) or _scaled(first, "v_out") or _scaled(last, "v_in"):
            continue
        name = graph.layer(pair.first).norm
        beta, gamma = moments[name]
        c = (beta - SIGMAS * gamma.abs()).clamp_min(0)
        first, last = getattr(first, "inner", first), getattr(last, "inner", last)
        first.bias.sub_(c)
        moved = response_to_constant(last, c, pair.positions)
        last.bias = nn.Parameter(moved if last.bias is None else last.bias + moved)
        moments[name] = (beta - c, gamma)
    return model, moments


def _scaled(layer: nn.Module, buffer: str) -> bool:
    factor = getattr(layer, buffer, None)
    return factor is not None and bool((factor != 1).any())


def response_to_constant(layer: nn.Conv2d | nn.Linear, c: torch.Tensor, positions: int = 1) -> torch.Tensor:
    """W c: what a layer answers, away from borders and without its bias, if channel i is c_i everywhere; [O]."""
    if isinstance(layer, nn.Linear):
        return layer.weight @ c.repeat_interleave(positions)
    weight = layer.weight.flatten(2).sum(2).unflatten(0, (layer.groups, -1))
    return (weight * c.view(layer.groups, 1, -1)).sum(2).flatten()
