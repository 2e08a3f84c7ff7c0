"""BatchNorm inside the convolution before it, while a frozen network only has to compute.

    with folded(model)                          every forward pass computes that way
    batchnorm.capture(model, *plan(model))      and leaves the moments of BatchNorm's inputs

Nothing in the model changes; its outputs are equal within rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from ..errors import DataFreeError
from .batchnorm import Fold, affine, folded_conv, patched
from .graph import trace
from .hooks import frozen


class Plan(NamedTuple):
    """What is computed in another way: convolutions with their BatchNorm, and ReLUs behind sums, which work in place."""

    folds: list[Fold]
    after_sums: list[nn.ReLU]


def plan(model: nn.Module, looked_at: Collection[str] = ()) -> Plan:
    """Every BatchNorm that alone reads a convolution, and every ReLU that alone reads a sum.

    Left out: networks that cannot be traced, the convolutions `looked_at`, modules that have hooks or a forward of their
    own, and weights that are computed from others.
    """
    try:
        graph = trace(model)
    except DataFreeError:
        return Plan([], [])
    found = []
    for layer in (layer for layer in graph.layers if layer.name not in looked_at):
        conv, norm = graph.modules[layer.name], graph.modules.get(layer.norm)
        if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and _untouched(conv) and _untouched(norm):
            act, alone = graph.act_behind(layer.name)
            found.append(Fold(conv, norm, *((act, alone) if _plain_relu(act) else (None, False))))
    return Plan(found, [act for act in graph.acts_behind_sums() if _plain_relu(act)])


def _plain_relu(act: nn.Module | None) -> bool:
    return type(act) is nn.ReLU and _untouched(act)


def _untouched(module: nn.Module) -> bool:
    computed = isinstance(module, nn.Conv2d) and "weight" not in module._parameters
    return not (computed or module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


@contextmanager
def folded(model: nn.Module, looked_at: Collection[str] = ()) -> Iterator[nn.Module]:
    """Within the block `model` is frozen, in evaluation mode, and computes without its BatchNorm layers where it can.

    What the convolutions before them give is what BatchNorm would make of it; all other modules give what they give.
    """
    folds, after_sums = plan(model, looked_at)
    forwards = {act: torch.relu_ for act in after_sums}
    for fold in folds:
        forwards[fold.conv] = folded_conv(fold.conv, *affine(fold.norm))
        forwards[fold.norm] = lambda x: x
    with frozen(model), patched(forwards):
        yield model
