"""Layer-Wise Data-Free CNN Compression, section III-B: inputs of a layer from the BatchNorm before it (eqs. 10 to 12)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ...core.batchnorm import Moments, NamedMoments
from ...core.graph import Feed, Graph
from ...errors import DataFreeError
from . import equalization

# III-B: inputs of a layer without data ------------------------------------------------------------------------------


def stored_moments(model: nn.Module, graph: Graph) -> NamedMoments:
    r"""What BatchNorm says about its own output, read before fusion (Layer-Wise Data-Free CNN Compression, eq. 10).

    .. math:: \mathrm{E}[y_c] = \beta_c,\qquad
              \mathrm{Std}[y_c] = |\gamma_c| \sqrt{\frac{\sigma_c^2}{\sigma_c^2 + \epsilon}} \approx |\gamma_c|

    gamma may be negative and a deviation may not: hence the magnitude. The paper leaves epsilon out, which matters
    where a channel has died: its variance is far below epsilon, and its output is constant whatever gamma says. A layer
    without BatchNorm counts as standard normal.

    Returns:
        name of a BatchNorm, or of a layer without one -> mean and variance of its output.
        Book: {eq}`lw-eq-10`.
    """
    found: NamedMoments = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            like = module.running_mean if module.weight is None else module.weight.detach()
            beta = torch.zeros_like(like) if module.bias is None else module.bias.detach().clone()
            gamma = torch.ones_like(like) if module.weight is None else like
            alive = module.running_var / (module.running_var + module.eps)
            found[name] = Moments(beta, gamma.square() * alive)
    for layer in graph.layers:
        if layer.norm is None:
            zero = model.get_submodule(layer.name).weight.new_zeros(layer.outputs)
            found[layer.name] = Moments(zero.detach(), torch.ones_like(zero))
    return found


def tracked_moments(moments: NamedMoments, graph: Graph, equalized: equalization.Equalized) -> NamedMoments:
    """The moments after equalisation: divided where a pair has no buffers; with buffers they stay as they are."""
    moments = dict(moments)
    for pair in equalized.plain:
        name = graph.layer(pair.first).norm or pair.first
        s, (beta, var) = equalized.scales[pair.first], moments[name]
        moments[name] = Moments(beta / s, var / s.square())
    return moments


def block_output(beta: torch.Tensor, gamma: torch.Tensor, shape: tuple[int, int, int], generator: torch.Generator):
    r"""What a block puts out, before its activation (Layer-Wise Data-Free CNN Compression, eq. 11).

    .. math:: x_j \sim \mathcal N(\beta_j, \gamma_j^2)

    Args:
        beta, gamma: [C], mean and standard deviation.
        shape: (N, H, W).
    Returns:
        [N, C, H, W], all values independent. Book: {ref}`lw-generator`.
    """
    count, height, width = shape
    noise = torch.randn(count, len(beta), height, width, generator=generator, device=generator.device).to(beta.device)
    return noise.mul_(gamma.abs().view(1, -1, 1, 1)).add_(beta.view(1, -1, 1, 1))


def imitated(
    feed: Feed, moments: NamedMoments, shape: tuple[int, int, int], generator: torch.Generator, channels: int = 0
) -> torch.Tensor:
    """The value [N, C, H, W] of a tree whose leaves are drawn by eq. 11; those without moments are N(0, 1).

    Args:
        channels: of leaves for which the tree does not say it.
    """
    place = next((beta.device for beta, _ in moments.values()), generator.device)

    def leaf(part: Feed) -> torch.Tensor:
        if part.name in moments:
            beta, var = moments[part.name]
            return block_output(beta, var.sqrt(), shape, generator)
        size = shape[0], part.channels or channels, *shape[1:]
        return torch.randn(size, generator=generator, device=generator.device).to(place)

    return feed.value(leaf, spatial=False)


def layer_input(
    graph: Graph, name: str, moments: NamedMoments, shape: tuple[int, int, int], generator: torch.Generator, *,
    activation: bool = True, pooled: bool = False, feed: Feed | None = None,
) -> torch.Tensor:  # fmt: skip
    r"""Imitated input of a layer: the blocks that feed it, added up (Layer-Wise Data-Free CNN Compression, eq. 12).

    .. math:: x = \sum_j f_j(x_j)

    The sum follows the network: an activation after an addition is applied after it, and identity branches are
    sums themselves. Pooling is ignored, as section III-B says. No BatchNorm before the layer: N(0, 1).

    Args:
        moments: of `stored_moments` or `tracked_moments`.
        shape: (N, H, W); the paper gives no height and width.
        activation: apply f_j; pruning leaves it out (section III-D).
        pooled: apply the pooling right before the layer after all, over H x W independent values.
        feed: another tree than the network's own.
    Returns:
        [N, C, H, W]; for a linear layer [N, columns], drawn as independent values. Book: {ref}`lw-generator`.
    """
    layer, feed = graph.layer(name), feed or graph.feeding(name)
    shape = _linear_shape(layer, feed, shape, pooled) if layer.kind == "linear" else shape
    feed = feed if activation else without_activation(feed)
    head = feed.terms[0] if pooled and feed.kind == "pool" else feed
    x = imitated(head, moments, shape, generator, layer.inputs)
    x = feed.apply(x) if head is not feed else x
    x = x.flatten(1) if layer.kind == "linear" else x
    if x.shape[1] != layer.inputs:
        raise DataFreeError(
            f"the input of '{name}' ({feed}) was imitated with {x.shape[1]} channels instead of {layer.inputs}; "
            "what feeds it is not known well enough."
        )
    return x


def _linear_shape(layer, feed: Feed, shape: tuple[int, int, int], pooled: bool) -> tuple[int, int, int]:
    if pooled and feed.kind == "pool":
        return shape
    known = [leaf.channels for leaf in feed.leaves() if leaf.channels]
    single = known and feed.kind != "concat" and layer.inputs % known[0] == 0
    return shape[0], 1, layer.inputs // known[0] if single else 1


def without_activation(feed: Feed) -> Feed:
    """The same tree with every activation left out."""
    if feed.kind == "act":
        return without_activation(feed.terms[0])
    return replace(feed, terms=tuple(map(without_activation, feed.terms)))


def activation_before_sum(feed: Feed) -> Feed:
    """The tree as eq. 12 has it to the letter: an activation after an addition moves to each of the terms."""
    terms = tuple(map(activation_before_sum, feed.terms))
    if feed.kind == "act" and terms[0].kind == "sum":
        return replace(terms[0], terms=tuple(replace(feed, terms=(t,)) for t in terms[0].terms))
    return replace(feed, terms=terms)
