"""A network's compressible layers with what each may keep, and what a set of choices costs before any network is built.

What a layer keeps is a whole number: its rank (`factorization.Factorizer`) or how many weights stay (`magnitude.Pruner`).
Costs are proportional to it. What a set of numbers does not name stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ...core.flops import count_macs, count_parameters
from ...core.hooks import Use, uses_of
from ...errors import DataFreeError

Ranks = Mapping[str, int]


@dataclass(frozen=True)
class CompressibleLayer:
    """A convolution that can be made cheaper: the most it can keep, and its cost dense and for each unit that is kept."""

    name: str
    full_rank: int
    weights: int
    macs: int
    weights_per_rank: int
    macs_per_rank: int

    def rank(self, share: float) -> int:
        """The number that keeps about this share of the weights, at least one."""
        return max(1, min(self.full_rank, round(share * self.weights / self.weights_per_rank)))


class CompressibleLayers:
    """The convolutions of a network that one way of compressing can treat. A subclass says which, and how.

    Args:
        model: left as it is.
        shape: of one image; it decides the number of operations.

    The first convolution that runs, the classifier and layers that run twice stay dense.
    """

    NONE = "the first one stays as it is, and the others run more than once."

    def __init__(self, model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)):
        self.model, self.shape = model, tuple(shape)
        self.layers = {
            name: self._layer(name, model.get_submodule(name), uses[0].received, uses[0].made)
            for name, uses in list(self._uses().items())[1:]  # not the first one
            if len(uses) == 1 and self.treats(model.get_submodule(name))
        }
        if not self.layers:
            raise DataFreeError(f"{type(model).__name__} has no convolution to compress: {self.NONE}")
        self.dense_macs, self.dense_parameters = count_macs(model, self.shape), count_parameters(model)

    def treats(self, conv: nn.Conv2d) -> bool:
        """Whether this convolution can be compressed."""
        return True

    def _layer(self, name: str, conv: nn.Conv2d, received: tuple[int, ...], made: tuple[int, ...]) -> CompressibleLayer:
        """`received` and `made`: the shapes of its input and its output."""
        raise NotImplementedError

    def compact(self, name: str, rank: int) -> torch.Tensor:
        """The dense kernel that computes what the compressed layer does."""
        raise NotImplementedError

    def quickest(self, name: str, rank: int) -> nn.Module:
        """What computes the compressed layer in the least time: here one convolution with its dense kernel."""
        conv = copy.deepcopy(self.model.get_submodule(name))
        conv.weight.data = self.compact(name, rank)
        return conv

    def network(self, ranks: Ranks) -> nn.Module:
        """A copy of the model in which each named convolution is compressed; names of modules stay."""
        raise NotImplementedError

    @contextmanager
    def held(self, student: nn.Module, ranks: Ranks) -> Iterator[nn.Module]:
        """Within the block training leaves as it is what compression fixed in `student`, a `network` of these ranks."""
        yield student

    def _uses(self) -> dict[str, list[Use]]:
        """Convolution -> its uses, in the order they run."""
        uses: dict[str, list[Use]] = {}
        names = [name for name, module in self.model.named_modules() if isinstance(module, nn.Conv2d)]
        for use in uses_of(self.model, names, self.shape):
            uses.setdefault(use.name, []).append(use)
        return uses

    def layer(self, name: str) -> CompressibleLayer:
        """The convolution of that name; DataFreeError where it cannot be compressed or is not there."""
        if name not in self.layers:
            raise DataFreeError(
                f"'{name}' is no convolution that can be compressed; these can: {', '.join(self.layers)}."
            )
        return self.layers[name]

    def macs(self, ranks: Ranks) -> int:
        """Multiply-accumulates of one image with these numbers, without building the network."""
        chosen = [(self.layer(name), rank) for name, rank in ranks.items()]
        # linear in the ranks: what is chosen takes the place of its dense cost
        return self.dense_macs + sum(rank * layer.macs_per_rank - layer.macs for layer, rank in chosen)

    def parameters(self, ranks: Ranks) -> int:
        """Trainable values that stay with these numbers."""
        chosen = [(self.layer(name), rank) for name, rank in ranks.items()]
        return self.dense_parameters + sum(rank * layer.weights_per_rank - layer.weights for layer, rank in chosen)
