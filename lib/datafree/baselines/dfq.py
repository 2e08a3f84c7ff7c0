"""Tools of Data-Free Quantization (Nagel et al., 2019) that later papers take over."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..core import quantized
from ..core.graph import Feed, Graph, Pair
from ..errors import DataFreeError

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


# Expected values and ranges from BatchNorm alone ------------------------------------------------------------------

RANGE_SIGMAS = 6.0
"""Deviations on either side of the mean that the range of an activation spans (Nagel et al., section 4.2.1)."""

NODES = torch.linspace(-8, 8, 801, dtype=torch.float64)
"""Where a standard normal density is sampled for expectations; beyond, nothing is left in double precision."""


def has_moments(feed: Feed) -> bool:
    """Whether mean and deviation of a tree follow from those of its leaves: no product and nothing unknown."""
    return all(node.kind not in ("product", "unknown") and (node.kind != "act" or node.apply) for node in feed.nodes())


def gaussian(feed: Feed, moments: Moments, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [C] of what a tree yields, if all terms are independent and normal before each activation.

    Args:
        moments: mean and deviation of the leaves; leaves that are not in it are standard normal.
        channels: of the network's input, or of an unknown leaf.
    """
    if not feed.terms:
        count = feed.channels or channels
        mean, deviation = moments.get(feed.name, (torch.zeros(count), torch.ones(count)))
        return mean, deviation.square()
    terms = [gaussian(term, moments, channels) for term in feed.terms]
    if feed.kind == "act":
        return through(feed, *terms[0])
    if feed.kind == "sum":
        return sum(m for m, _ in terms), sum(v for _, v in terms)
    if feed.kind == "concat":
        return torch.cat([m for m, _ in terms]), torch.cat([v for _, v in terms])
    if feed.kind == "pad":
        return tuple(nn.functional.pad(t, (feed.before, feed.after)) for t in terms[0])
    if feed.kind == "pool":
        return terms[0]
    raise DataFreeError(f"the moments of '{feed}' do not follow from those of its parts; imitate the input instead.")


@torch.no_grad()
def through(act: Feed, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of an activation of normal values, by summing over the density."""
    weight = torch.exp(-0.5 * NODES.square())
    weight = weight / weight.sum()
    values = act.apply((mean.double()[:, None] + variance.double().sqrt()[:, None] * NODES)[None, :, :, None])[
        0, :, :, 0
    ]
    first, second = values @ weight, values.square() @ weight
    return first.to(mean.dtype), (second - first.square()).clamp_min(0).to(mean.dtype)


@torch.no_grad()
def six_sigma_range(feed: Feed, moments: Moments, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ends [C] of what each channel spans, six deviations about its mean, cut by the activation if there is one last."""
    if feed.kind == "pool":
        return six_sigma_range(feed.terms[0], moments, channels)
    if feed.kind == "concat":
        return tuple(map(torch.cat, zip(*(six_sigma_range(term, moments, channels) for term in feed.terms))))
    if feed.kind != "act":
        mean, variance = gaussian(feed, moments, channels)
        reach = RANGE_SIGMAS * variance.sqrt()
        return mean - reach, mean + reach
    low, high = six_sigma_range(feed.terms[0], moments, channels)
    steps = torch.linspace(0, 1, 101)
    values = feed.apply((low[:, None] + (high - low)[:, None] * steps)[None, :, :, None])[0, :, :, 0]
    return values.amin(1), values.amax(1)


@torch.no_grad()
def correct_bias(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, mean: torch.Tensor) -> None:
    r"""Take the expected error of a rounded weight out of the bias, in place (Nagel et al., section 4.2).

    .. math:: b \to b + (W - \hat W)\, \mathrm{E}[x]

    Args:
        layer: with rounded weight; weight: before rounding.
        mean: E[x] of each input channel; a linear layer may have several columns a channel.
    """
    lost = copy.deepcopy(layer)
    lost.weight.data = weight - layer.weight
    positions = layer.in_features // len(mean) if isinstance(layer, nn.Linear) else 1
    offset = response_to_constant(lost, mean, positions)
    layer.bias = nn.Parameter(offset if layer.bias is None else layer.bias + offset)


@torch.no_grad()
def set_ranges(student: nn.Module, graph: Graph, moments: Moments) -> None:
    """Ranges by six deviations and corrected biases for every `QuantizedLayer`, in place: from moments alone, no image.

    Args:
        student: a quantised copy of the fused network that the moments belong to.
    """
    for part in graph.layers:
        layer, feed = student.get_submodule(part.name), graph.feeding(part.name)
        if not isinstance(layer, quantized.QuantizedLayer):
            raise DataFreeError(f"'{part.name}' is not quantised; give a network that `quantize.quantized` made.")
        low, high = six_sigma_range(feed, moments, part.inputs)
        layer.low.copy_(low.amin()), layer.high.copy_(high.amax()), layer.batches.fill_(1)
        if has_moments(feed):
            lost = copy.deepcopy(layer.inner)
            lost.weight.data = layer.quantized_weight()
            correct_bias(lost, layer.inner.weight, gaussian(feed, moments, part.inputs)[0])
            layer.inner.bias = lost.bias
