"""Magnitude pruning as a way to compress convolutions: how many of the largest weights stay."""

from __future__ import annotations

import torch
from torch import nn

from ...core import pruning
from ...errors import DataFreeError
from . import compressible


class Pruner(compressible.CompressibleLayers):
    """A network's convolutions, each with its weights ordered by magnitude once; every set of counts is masked from these.

    A count is how many weights of a convolution stay: its largest ones.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)):
        super().__init__(model, shape)
        weights = {name: model.get_submodule(name).weight.detach() for name in self.layers}
        self.order = {name: w.abs().flatten().sort(descending=True, stable=True).indices for name, w in weights.items()}

    def _layer(
        self, name: str, conv: nn.Conv2d, received: tuple[int, ...], made: tuple[int, ...]
    ) -> compressible.CompressibleLayer:
        weights, places = conv.weight.numel(), made[2] * made[3]
        return compressible.CompressibleLayer(name, weights, weights, weights * places, 1, places)

    def mask(self, name: str, count: int) -> torch.Tensor:
        """The shape of the weight, true at the `count` largest magnitudes."""
        full = self.layer(name).full_rank
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= full:
            raise DataFreeError(
                f"'{name}' has {full} weights, {count!r} were to stay; give a whole number from 1 to {full}."
            )
        mask = torch.zeros(full, dtype=torch.bool, device=self.order[name].device)
        mask[self.order[name][:count]] = True
        return mask.view(self.model.get_submodule(name).weight.shape)

    def masks(self, counts: compressible.Ranks) -> pruning.Masks:
        """Layer -> its mask."""
        return {name: self.mask(name, count) for name, count in counts.items()}

    def compact(self, name: str, rank: int) -> torch.Tensor:
        return self.model.get_submodule(name).weight.detach() * self.mask(name, rank)

    def network(self, ranks: compressible.Ranks) -> nn.Module:
        return pruning.masked(self.model, self.masks(ranks))

    def held(self, student: nn.Module, ranks: compressible.Ranks):
        return pruning.held(student, self.masks(ranks))

    def uniform(self, share: float) -> dict[str, int]:
        """Counts of one share for all layers, so that this share of the network's trainable values stays."""
        inside = sum(layer.weights for layer in self.layers.values())
        # all the pruning happens inside the compressible layers
        kept = 1 - (1 - share) * self.dense_parameters / inside
        if not 0 < kept <= 1:
            raise DataFreeError(
                f"a share of {share:g} of the values cannot stay: it must lie above "
                f"{1 - inside / self.dense_parameters:.3f}, what is never pruned, and not above 1."
            )
        return {name: layer.rank(kept) for name, layer in self.layers.items()}
