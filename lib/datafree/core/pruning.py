"""Pruning: which channels go, and taking them out of the network for real; and masks over single weights.

A channel is one of a pair of `datafree.core.graph`: one output channel of `first`, its filters in the depthwise
convolutions of `middle`, and its input column of `last`. There nothing is masked: the layers become smaller.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataFreeError
from .graph import Graph, Pair
from .hooks import masked_gradients

CRITERIA = ("l1", "l2")
"""Norms of a filter by which channels are ranked."""


def prunable(graph: Graph) -> list[Pair]:
    """The pairs whose channels can be taken out: plain convolutions or linear layers with depthwise ones between.

    Raises:
        DataFreeError: there is none.
    """
    pairs = [p for p in graph.pairs() if "grouped" not in (graph.layer(p.first).kind, graph.layer(p.last).kind)]
    if not pairs:
        raise DataFreeError(
            f"{graph.network} has no two layers of which the second alone reads the first, so no channel can be "
            f"pruned and repaired. {' '.join(graph.problems()[:3])}"
        )
    return pairs


def scores(weight: torch.Tensor, criterion: str = "l2") -> torch.Tensor:
    """Norm of each filter [O] of a weight [O, ...]: the larger, the more it is worth keeping."""
    if criterion not in CRITERIA:
        raise DataFreeError(f"criterion '{criterion}' is not known; choose one of {', '.join(CRITERIA)}.")
    return torch.linalg.vector_norm(weight.detach().flatten(1), ord=int(criterion[1]), dim=1)


def kept_count(channels: int, ratio: float) -> int:
    """How many of `channels` stay when the share `ratio` goes: at least one."""
    if not 0 <= ratio < 1:
        raise DataFreeError(f"the pruned share is {ratio}; it must lie between 0 and 1 (1 itself would leave nothing).")
    return max(1, channels - math.floor(channels * ratio + 0.5))


def keep_largest(score: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest scores, in rising order. At equal scores the first ones stay."""
    return torch.sort(score, descending=True, stable=True).indices[:count].sort().values


def choose(by_layer: Mapping[str, torch.Tensor], ratio: float, scope: str = "layer") -> dict[str, torch.Tensor]:
    """Layer -> indices of the channels that stay.

    Args:
        by_layer: layer -> scores [O].
        ratio: share of the channels that goes, of each layer or of all together.
        scope: 'layer' or 'global'. Global: scores are divided by their layer's mean, so that layers compare;
            the best channel of each layer always stays.
    """
    if scope == "layer":
        return {name: keep_largest(s, kept_count(len(s), ratio)) for name, s in by_layer.items()}
    if scope != "global":
        raise DataFreeError(f"scope '{scope}' is not known; choose 'layer' or 'global'.")
    relative = {name: s / s.mean().clamp_min(torch.finfo(s.dtype).tiny) for name, s in by_layer.items()}
    # all layers in one row; then cut it back into layers
    together = torch.cat(list(relative.values()))
    kept = torch.zeros_like(together, dtype=torch.bool)
    kept[keep_largest(together, kept_count(len(together), ratio))] = True
    parts = kept.split([len(s) for s in relative.values()])
    return {
        name: part.nonzero().flatten() if part.any() else keep_largest(relative[name], 1)
        for name, part in zip(relative, parts)
    }


# Taking channels out ---------------------------------------------------------------------------------------------


def _cut(module: nn.Module, name: str, keep: torch.Tensor, dim: int = 0) -> None:
    value = getattr(module, name)
    if value is None:
        return
    smaller = value.detach().index_select(dim, keep).contiguous()
    if isinstance(value, nn.Parameter):
        setattr(module, name, nn.Parameter(smaller, requires_grad=value.requires_grad))
    else:
        setattr(module, name, smaller)


def cut_outputs(layer: nn.Conv2d | nn.Linear, keep: torch.Tensor) -> None:
    """Leave only the output channels `keep` of a layer; of a depthwise one its inputs too."""
    _cut(layer, "weight", keep)
    _cut(layer, "bias", keep)
    if isinstance(layer, nn.Linear):
        layer.out_features = len(keep)
        return
    if layer.groups > 1:
        layer.in_channels = layer.groups = len(keep)
    layer.out_channels = len(keep)


def cut_inputs(layer: nn.Conv2d | nn.Linear, keep: torch.Tensor, positions: int = 1) -> None:
    """Leave only the input channels `keep`; a linear layer has `positions` columns for each."""
    if isinstance(layer, nn.Linear):
        # channel c has the columns c P to (c + 1) P - 1
        columns = (keep[:, None] * positions + torch.arange(positions, device=keep.device)).flatten()
        _cut(layer, "weight", columns, 1)
        layer.in_features = len(columns)
        return
    _cut(layer, "weight", keep, 1)
    layer.in_channels = len(keep)


def cut_norm(norm: nn.BatchNorm2d | nn.BatchNorm1d, keep: torch.Tensor) -> None:
    """Leave only the channels `keep` of a BatchNorm layer."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        _cut(norm, name, keep)
    norm.num_features = len(keep)


def cut_channels(net: nn.Module, graph: Graph, pair: Pair, keep: torch.Tensor) -> None:
    """Leave only the channels `keep` of `first`, of the depthwise layers behind it and of their BatchNorms, in place.

    The inputs of `last` are still to be cut.
    """
    if keep.numel() == 0 or (keep.diff() <= 0).any():
        raise DataFreeError(f"'{pair.first}': give the channels that stay in rising order, and at least one.")
    if keep[0] < 0 or keep[-1] >= net.get_submodule(pair.first).weight.shape[0]:
        raise DataFreeError(f"'{pair.first}' has no channel {int(keep[-1])}; give indices of its output channels.")
    for name in (pair.first, *pair.middle):
        cut_outputs(net.get_submodule(name), keep)
        norm = graph.layer(name).norm
        if norm:
            cut_norm(net.get_submodule(norm), keep)


def remove(net: nn.Module, graph: Graph, pair: Pair, keep: torch.Tensor) -> nn.Module:
    """Take all channels of a pair but `keep` out of `net`, in place: parameters, operations and seconds drop.

    Args:
        net: the network that `graph` was traced from, or a copy of it.
        keep: indices in rising order, at least one.
    """
    cut_channels(net, graph, pair, keep)
    cut_inputs(net.get_submodule(pair.last), keep, pair.positions)
    return net


# Single weights ------------------------------------------------------------------------------------------------------

Masks = dict[str, torch.Tensor]
"""Layer -> the shape of its weight, true where a weight stays."""


def sparsity(weights: Iterable[torch.Tensor]) -> float:
    """Share of zeros among all values of the tensors."""
    zeros, total = (sum(counts) for counts in zip(*((int((w == 0).sum()), w.numel()) for w in weights)))
    return zeros / total


def proportional_shares(quotients: Mapping[str, float], sizes: Mapping[str, int], share: float) -> dict[str, float]:
    """min(1, eps * quotient) for each layer, with the one eps at which the layers together have `share`.

    Args:
        quotients: layer -> any positive number. sizes: layer -> number of weights.
    """
    _check_share(share)
    wanted = share * sum(sizes.values())
    full: set[str] = set()
    while True:
        rest = [name for name in quotients if name not in full]
        mass = sum(quotients[name] * sizes[name] for name in rest)
        # what is still to give, spread over the layers that are not full yet
        eps = (wanted - sum(sizes[name] for name in full)) / mass if rest else 0.0
        over = {name for name in rest if eps * quotients[name] > 1}
        if not over:
            return {name: 1.0 if name in full else eps * quotients[name] for name in quotients}
        # min(1, .): these layers are given up whole, and eps is found again for the rest
        full |= over


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise DataFreeError(f"a share of {share} of the weights was asked for; give a number between 0 and 1.")


def _largest(score: torch.Tensor, density: float) -> torch.Tensor:
    """True at the `density` share of the values with the largest magnitude."""
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    # ties go to the first values, so that the share is exact
    mask[keep_largest(score.abs().flatten(), round(density * score.numel()))] = True
    return mask.view(score.shape)


def global_masks(weights: Mapping[str, torch.Tensor], share: float) -> Masks:
    """The smallest `share` of all weights goes, wherever it is."""
    _check_share(share)
    flat = _largest(torch.cat([w.flatten() for w in weights.values()]), 1 - share)
    parts = flat.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts)}


def layer_masks(weights: Mapping[str, torch.Tensor], densities: Mapping[str, float] | float) -> Masks:
    """In each layer its largest weights stay.

    Args:
        densities: share that stays, of every layer or by name.
    """
    by_name = densities if isinstance(densities, Mapping) else dict.fromkeys(weights, densities)
    for density in by_name.values():
        _check_share(density)
    return {name: _largest(w, by_name[name]) for name, w in weights.items()}


@torch.no_grad()
def masked(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy whose masked weights are zero."""
    model = copy.deepcopy(model)
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        if weight.shape != mask.shape:
            raise DataFreeError(
                f"the mask of '{name}' is {tuple(mask.shape)} and its weight {tuple(weight.shape)}; make it for this network."
            )
        weight.mul_(mask)
    return model


@contextmanager
def held(model: nn.Module, masks: Masks) -> Iterator[nn.Module]:
    """Within the block masked weights have no gradient, so training leaves their zeros: decay and momentum of zero are zero."""
    with masked_gradients((model.get_submodule(name).weight, mask) for name, mask in masks.items()):
        yield model
