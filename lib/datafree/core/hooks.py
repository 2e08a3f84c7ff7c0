"""Hooks and modes: everything that watches a forward pass registers here, and is taken away again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataFreeError


@contextmanager
def taps(model: nn.Module, names: tuple[str, ...]) -> Iterator[list[torch.Tensor]]:
    """Within the block every forward pass leaves the outputs of the named modules in the yielded list, in their order."""
    seen: list[torch.Tensor] = [torch.empty(0)] * len(names)

    def keep(i):
        def hook(_module, _inputs, output):
            seen[i] = output

        return hook

    handles = [_submodule(model, name).register_forward_hook(keep(i)) for i, name in enumerate(names)]
    with hooked(handles):
        yield seen


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = ", ".join(n for n, _ in model.named_children())
        raise DataFreeError(f"{type(model).__name__} has no module '{name}' to tap; its parts are {known}.") from None


def _body(model: nn.Module) -> str:
    """Name of the part that holds all parameters, where the rest only normalises the input; else ''."""
    holders = [(n, m) for n, m in model.named_children() if any(True for _ in m.parameters())]
    own = any(True for _ in model.parameters(recurse=False))
    return holders[0][0] if len(holders) == 1 and not own and not isinstance(model, nn.Sequential) else ""


@torch.no_grad()
def stages(model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> tuple[str, ...]:
    """The last module at each resolution: the outputs of the stages of a residual network.

    Only parts of the top level, and members of its sequences, are looked at, in the order of the forward pass.
    """
    inside = _body(model)
    blocks = [f"{n}.{k}" if isinstance(m, nn.Sequential) else n for n, m in model.get_submodule(inside).named_children()
              for k in (range(len(m)) if isinstance(m, nn.Sequential) else (0,))]  # fmt: skip
    blocks = [f"{inside}.{name}" if inside else name for name in blocks]
    sides: list[tuple[str, int]] = []
    handles = [
        _submodule(model, name).register_forward_hook(
            lambda _m, _i, out, name=name: sides.append((name, out.shape[-1] if out.ndim == 4 else 0))
        )
        for name in blocks
    ]
    pass_once(model, shape, handles)
    last = {side: name for name, side in sides}  # a later module of the same side takes the place of an earlier one
    return tuple(name for side, name in last.items() if side > 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode within the block; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def hooked(handles: list) -> Iterator[None]:
    """Remove these hooks at the end of the block, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def pass_once(model: nn.Module, shape: tuple[int, int, int], handles: list) -> None:
    """One black image through the network in evaluation mode, for what the hooks of `handles` note; they are removed."""
    with hooked(handles), evaluating(model):
        model(torch.zeros(1, *shape))
