"""Many sets of ranks, or of kept weights, of one network on the same images, with what they share computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import fx, nn

from ...core import batchnorm
from ...core.graph import fold_all, trace
from ...core.precision import autocast
from ...data.images import ImageSet
from ...errors import DataFreeError
from . import compressible

Row = tuple[int, ...]
"""A set of ranks: one number a layer, in the order of `CompressibleLayers.layers`."""


def common(a: Row, b: Row) -> int:
    """How many numbers two rows have in common before the first difference."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), len(a))


class Candidates(fx.Interpreter):
    """Runs the network node by node; what stands in a compressed layer's place computes the same in the least time.

    Rows are run in sorted order, and each starts at the first layer whose rank differs from the row before.

    Args:
        calibrated: BatchNorm uses the statistics of the images, as after `batchnorm.recalibrate` on all of them at once. Else
            it is folded into the convolutions, where it can be.
        bf16: multiply in bfloat16.
    """

    def __init__(self, factors: compressible.CompressibleLayers, *, calibrated: bool = False, bf16: bool = False):
        self.factors, self.calibrated, self.bf16 = factors, calibrated, bf16
        self.wires = trace(factors.model)
        net = copy.deepcopy(factors.model).eval() if calibrated else fold_all(factors.model, self.wires)
        for module in net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # values that are kept must not be written over
        super().__init__(fx.GraphModule(net, self.wires.nodes[0].graph))
        self.nodes = list(self.module.graph.nodes)
        places = {node.target: k for k, node in enumerate(self.nodes) if node.op == "call_module"}
        self.levels = {places[name]: level for level, name in enumerate(factors.layers)}
        self.modules: dict[tuple[str, int], nn.Module] = {}
        self.ranks: dict[str, int] = {}

    def _quickest(self, name: str, rank: int) -> nn.Module:
        """What computes the compressed layer, BatchNorm folded in or not."""
        if (name, rank) not in self.modules:
            made, norm = self.factors.quickest(name, rank), self.wires.layer(name).norm
            if norm and not self.calibrated:
                # of two convolutions in a row BatchNorm reads the second
                *before, last = made if isinstance(made, nn.Sequential) else [made]
                made = nn.Sequential(*before, batchnorm.fold(last, self.factors.model.get_submodule(norm)))
            self.modules[name, rank] = made.to(memory_format=torch.channels_last)
        return self.modules[name, rank]

    def call_module(self, target, args, kwargs):
        if target in self.ranks:
            return self._quickest(target, self.ranks[target])(*args, **kwargs)
        module = self.fetch_attr(target)
        if self.calibrated and isinstance(module, nn.BatchNorm2d):
            return F.batch_norm(args[0], None, None, module.weight, module.bias, training=True, eps=module.eps)
        return super().call_module(target, args, kwargs)

    def _check(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if len(row) != len(self.factors.layers):
                raise DataFreeError(f"a set of {len(row)} ranks was given for {len(self.factors.layers)} layers.")
            for (name, layer), rank in zip(self.factors.layers.items(), row):
                if not 1 <= rank <= layer.full_rank:
                    raise DataFreeError(f"rank {rank} of '{name}' is not between 1 and {layer.full_rank}.")

    @torch.no_grad()
    def run_rows(self, x: torch.Tensor, rows: Sequence[Row]) -> Iterator[tuple[int, torch.Tensor]]:
        """(number of the row, outputs of the network) in an order of our choice."""
        # neighbours in this order begin alike
        order = sorted(range(len(rows)), key=rows.__getitem__)
        shared = [0] + [common(rows[a], rows[b]) for a, b in pairwise(order)]
        kept: dict[int, tuple[int, dict]] = {}
        result = None
        for index, level in zip(order, shared):
            self.ranks = dict(zip(self.factors.layers, rows[index]))
            # the values alive before the first layer that differs
            start, env = kept.get(level, (0, {}))
            # equal rows give the same result again
            if result is None or level < len(rows[index]):
                self.env, self.args_iter = dict(env), iter([x])
                result = self._from(start, set(shared), kept)
            yield index, result

    def _from(self, start: int, wanted: set[int], kept: dict[int, tuple[int, dict]]) -> torch.Tensor:
        """Run all nodes from `start`; what is alive before a layer of `wanted` goes into `kept`."""
        for place in range(start, len(self.nodes)):
            node, level = self.nodes[place], self.levels.get(place)
            if level in wanted:
                kept[level] = place, dict(self.env)
            self.env[node] = self.run_node(node)
            # nothing reads these values any more
            for dead in self.user_to_last_uses.get(node, []):
                del self.env[dead]
        return self.env[node]

    def outputs(self, images: ImageSet, rows: Sequence[Row], batch: int = 256) -> list[torch.Tensor]:
        """Outputs [N, K] of each row; with `calibrated` all images make one batch."""
        self._check(rows)
        parts: list[list[torch.Tensor]] = [[] for _ in rows]
        with autocast(self.bf16):
            for x, _ in images.batches(len(images) if self.calibrated else batch):
                for index, made in self.run_rows(x, rows):
                    parts[index].append(made.float())
        return [torch.cat(part) for part in parts]

    def scores(
        self, images: ImageSet, rows: Sequence[Row], score: Callable[[torch.Tensor], float], batch: int = 256
    ) -> list[float]:
        """`score` of each row's outputs. Where the images make one batch, no two rows' outputs are held at once."""
        if len(images) > batch and not self.calibrated:
            return [score(made) for made in self.outputs(images, rows, batch)]
        self._check(rows)
        found = [0.0] * len(rows)
        with autocast(self.bf16):
            for index, made in self.run_rows(images.floats(), rows):
                found[index] = score(made.float())
        return found
