"""Tools of Data-Free Quantization (Nagel et al., 2019) that later papers take over."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..core import quantized, quantizer
from ..core.batchnorm import Moments, NamedMoments
from ..core.graph import Feed, Graph, Pair
from ..errors import DataFreeError

SIGMAS = 3.0
"""Deviations below the mean that stay where they are when a bias is absorbed (Nagel et al., section 4.1.3)."""


def absorbable(graph: Graph, pair: Pair) -> bool:
    """Whether a constant may move through the pair: nothing but ReLU between, with caps or without, and known moments."""
    return pair.acts in (("relu",), ("capped_relu",)) and graph.layer(pair.first).norm is not None


@torch.no_grad()
def absorb_bias(model: nn.Module, graph: Graph, moments: NamedMoments) -> tuple[nn.Module, NamedMoments]:
    r"""Move what ReLU never cuts off into the next layer's bias (Nagel et al., section 4.1.3).

    .. math:: c = \max(0, \beta - 3\gamma),\quad b_1 \to b_1 - c,\quad b_2 \to b_2 + W_2 c,\quad \beta \to \beta - c

    As relu(x - c) = relu(x) - c wherever x > c, the function stays nearly as it was: it differs where a value falls
    below c, and at the borders, where zero padding brings no c. A cap on the channel moves down by c as well.

    Args:
        model: fused (and equalised); not changed. Pairs with buffers between them are left out.
        moments: beta and gamma^2 of the output of each layer's BatchNorm, as the model now has it.
    Returns:
        a copy, and its moments.
    """
    model, moments = copy.deepcopy(model), dict(moments)
    for pair in graph.neighbours():
        first, last = model.get_submodule(pair.first), model.get_submodule(pair.last)
        if not absorbable(graph, pair) or _scaled(first, "v_out") or _scaled(last, "v_in"):
            continue
        name = graph.layer(pair.first).norm
        beta, var = moments[name]
        c = (beta - SIGMAS * var.sqrt()).clamp_min(0)
        if pair.acts == ("capped_relu",):
            act = model.get_submodule(graph.activation(pair.first))
            c = torch.minimum(c, act.cap)
            act.cap.sub_(c)
        first, last = getattr(first, "inner", first), getattr(last, "inner", last)
        first.bias.sub_(c)
        moved = quantized.response_to_constant(last.weight, c, last)
        last.bias = nn.Parameter(moved if last.bias is None else last.bias + moved)
        moments[name] = Moments(beta - c, var)
    return model, moments


def _scaled(layer: nn.Module, buffer: str) -> bool:
    factor = getattr(layer, buffer, None)
    return factor is not None and bool((factor != 1).any())


# Expected values and ranges from BatchNorm alone ------------------------------------------------------------------

RANGE_SIGMAS = 6.0
"""Deviations on either side of the mean that the range of an activation spans (Nagel et al., section 4.2.1)."""

NODES = torch.linspace(-8, 8, 801, dtype=torch.float64, device="cpu")
"""Where a standard normal density is sampled for expectations; beyond, nothing is left in double precision."""


def has_moments(feed: Feed) -> bool:
    """Whether mean and deviation of a tree follow from those of its leaves: no product and nothing unknown."""
    return all(node.kind not in ("product", "unknown") and (node.kind != "act" or node.apply) for node in feed.nodes())


def gaussian(feed: Feed, moments: NamedMoments, channels: int) -> Moments:
    """Mean and variance [C] of what a tree yields, if all terms are independent and normal before each activation.

    Args:
        moments: of the leaves; leaves that are not in it are standard normal.
        channels: of the network's input, or of an unknown leaf.
    """
    if not feed.terms:
        count = feed.channels or channels
        zero = next(iter(moments.values()), (torch.empty(0, device="cpu"),))[0].new_zeros(count)
        return moments.get(feed.name) or Moments(zero, zero + 1)
    terms = [gaussian(term, moments, channels) for term in feed.terms]
    if feed.kind == "act":
        return through(feed, *terms[0])
    if feed.kind == "sum":
        return Moments(sum(m for m, _ in terms), sum(v for _, v in terms))
    if feed.kind == "concat":
        return Moments(*map(torch.cat, zip(*terms)))
    if feed.kind == "pad":
        return Moments(*(nn.functional.pad(t, (feed.before, feed.after)) for t in terms[0]))
    if feed.kind == "pool":
        return terms[0]
    raise DataFreeError(f"the moments of '{feed}' do not follow from those of its parts; imitate the input instead.")


@torch.no_grad()
def through(act: Feed, mean: torch.Tensor, variance: torch.Tensor) -> Moments:
    """Mean and variance of an activation of normal values, by summing over the density."""
    nodes = NODES.to(mean.device)
    weight = torch.exp(-0.5 * nodes.square())
    weight = weight / weight.sum()
    z = mean.double()[:, None] + variance.double().sqrt()[:, None] * nodes  # [C, nodes]
    values = act.apply(z[None, :, :, None])[0, :, :, 0]
    first, second = values @ weight, values.square() @ weight  # E[f(z)], E[f(z)^2]
    return Moments(first.to(mean.dtype), (second - first.square()).clamp_min(0).to(mean.dtype))


@torch.no_grad()
def six_sigma_range(feed: Feed, moments: NamedMoments, channels: int) -> quantizer.Limits:
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
    steps = torch.linspace(0, 1, 101, device=low.device)
    values = feed.apply((low[:, None] + (high - low)[:, None] * steps)[None, :, :, None])[0, :, :, 0]
    return values.amin(1), values.amax(1)


def input_range(feed: Feed, moments: NamedMoments, columns: int, v_in: torch.Tensor | None = None) -> quantizer.Limits:
    """Ends of a layer's input by six deviations, over all channels: two scalars.

    Args:
        columns: of the layer, input channels or columns.
        v_in: [C], what buffers multiply the input with before it is rounded.
    """
    low, high = (by_column(end, columns) for end in six_sigma_range(feed, moments, columns))
    if v_in is not None:
        low, high = low * v_in, high * v_in
    return low.amin(), high.amax()


def by_column(values: torch.Tensor, columns: int) -> torch.Tensor:
    """One value a channel as one a column; a linear layer may have several columns a channel."""
    return values.repeat_interleave(columns // len(values))


def set_ranges(student: nn.Module, graph: Graph, moments: NamedMoments) -> None:
    """Range of every quantised layer by six deviations, in place: from moments alone, no image (Nagel et al., section 4.2.1).

    Args:
        student: quantised, of the fused network that the moments belong to.
    """
    for part in graph.layers:
        layer = quantized.quantized_layer(student, part.name)
        layer.set_range(*input_range(graph.feeding(part.name), moments, part.inputs))


@torch.no_grad()
def correct_biases(student: nn.Module, model: nn.Module, graph: Graph, moments: NamedMoments) -> None:
    """Give every layer back the mean that rounding its weight took, in place (Nagel et al., section 4.2).

    The expected inputs follow from the moments; layers for which they do not are left as they are.

    Args:
        student: quantised, of `model`, the fused network that the moments belong to.
    """
    for part in graph.layers:
        layer, feed, whole = (
            quantized.quantized_layer(student, part.name),
            graph.feeding(part.name),
            model.get_submodule(part.name),
        )
        if not has_moments(feed):
            continue
        mean = by_column(gaussian(feed, moments, part.inputs).mean, part.inputs)
        if hasattr(whole, "v_in"):  # buffers scale the input before the weight sees it
            mean = mean * whole.v_in
        weight = getattr(whole, "inner", whole).weight
        quantized.correct_bias(layer, quantized.expected_shift(layer, weight, mean))
