"""Hooks and modes: what watches a forward pass registers here, and is taken away again at the end of its block.

    with feature_hooks(model, names) as seen       outputs of modules, in the order of `names`
    with input_hooks(model, names, note)           note(name, x) before each of them runs
    with output_hooks(model, names, note)          note(name, x, y) after each of them has run
    with masked_gradients(pairs)                   gradients of tensors, times a mask
    with evaluating(model), with frozen(model)     evaluation mode; and no gradients to the parameters
    uses_of(model, names, shape)                   shapes at each use, in the order the modules run

No other file of the library registers a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn

from ..errors import DataFreeError

Shape = tuple[int, int, int]


def _submodules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The named modules; DataFreeError, before any hook is registered, where one does not exist."""
    found = {}
    for name in names:
        try:
            found[name] = model.get_submodule(name)
        except AttributeError:
            known = ", ".join(n for n, _ in model.named_children())
            raise DataFreeError(f"{type(model).__name__} has no module '{name}'; its parts are {known}.") from None
    return found


@contextmanager
def input_hooks(model: nn.Module, names: Iterable[str], note: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Within the block `note(name, x)` gets what each named module receives, before the module runs."""

    def hook_of(name: str):
        def hook(_module, inputs):
            note(name, inputs[0])  # nothing is returned: a returned value would take the input's place

        return hook

    with ExitStack() as hooks:
        for name, module in _submodules(model, names).items():
            hooks.enter_context(module.register_forward_pre_hook(hook_of(name)))
        yield


@contextmanager
def output_hooks(
    model: nn.Module, names: Iterable[str], note: Callable[[str, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """Within the block `note(name, x, y)` gets what each named module received and made of it."""

    def hook_of(name: str):
        def hook(_module, inputs, output):
            note(name, inputs[0] if inputs else None, output)

        return hook

    with ExitStack() as hooks:
        for name, module in _submodules(model, names).items():
            hooks.enter_context(module.register_forward_hook(hook_of(name)))
        yield


@contextmanager
def feature_hooks(model: nn.Module, names: Iterable[str]) -> Iterator[list[torch.Tensor]]:
    """Within the block every forward pass leaves the outputs of the named modules in the yielded list, in their order."""
    names = tuple(names)
    seen: list[torch.Tensor] = [torch.empty(0, device="cpu")] * len(names)

    def keep(name, _x, y):
        for place in [i for i, other in enumerate(names) if other == name]:
            seen[place] = y

    with output_hooks(model, names, keep):
        yield seen


@contextmanager
def masked_gradients(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Within the block the gradient of each tensor is multiplied by its mask, before anything adds it up."""
    with ExitStack() as hooks:
        for tensor, mask in pairs:
            hooks.enter_context(tensor.register_hook(lambda gradient, mask=mask: gradient * mask))
        yield


def device_of(model: nn.Module) -> torch.device:
    """Where the network's values lie; the processor for one that has none."""
    values = (tensor.device for tensors in (model.parameters(), model.buffers()) for tensor in tensors)
    return next(values, torch.device("cpu"))


# Modes --------------------------------------------------------------------------------------------------------------


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
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode, and no gradient to any parameter, within the block; gradients to the input still flow."""
    required = [(p, p.requires_grad) for p in model.parameters()]
    try:
        with evaluating(model):
            yield model.requires_grad_(False)
    finally:
        for parameter, flag in required:
            parameter.requires_grad_(flag)


# Shapes -------------------------------------------------------------------------------------------------------------


class Use(NamedTuple):
    """One use of a module: its name, the shape of what it received and of what it made; () where that is no tensor."""

    name: str
    received: tuple[int, ...]
    made: tuple[int, ...]


@torch.no_grad()
def uses_of(model: nn.Module, names: Iterable[str], shape: Shape = (3, 32, 32)) -> list[Use]:
    """What the named modules do with one black image of `shape`, use by use, in the order they run."""
    uses: list[Use] = []

    def size(value) -> tuple[int, ...]:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else ()

    with output_hooks(model, names, lambda name, x, y: uses.append(Use(name, size(x), size(y)))), evaluating(model):
        model(torch.zeros(1, *shape, device=device_of(model)))
    return uses


def _body(model: nn.Module) -> str:
    """Name of the part that holds all parameters, where the rest only normalises the input; else ''."""
    holders = [(n, m) for n, m in model.named_children() if any(True for _ in m.parameters())]
    own = any(True for _ in model.parameters(recurse=False))
    return holders[0][0] if len(holders) == 1 and not own and not isinstance(model, nn.Sequential) else ""


def stages(model: nn.Module, shape: Shape = (3, 32, 32)) -> tuple[str, ...]:
    """The last module at each resolution: the outputs of the stages of a residual network.

    Only parts of the top level, and members of its sequences, are looked at, in the order of the forward pass.
    """
    inside = _body(model)
    blocks = [f"{n}.{k}" if isinstance(m, nn.Sequential) else n for n, m in model.get_submodule(inside).named_children()
              for k in (range(len(m)) if isinstance(m, nn.Sequential) else (0,))]  # fmt: skip
    blocks = [f"{inside}.{name}" if inside else name for name in blocks]
    maps = [(use.made[-1], use.name) for use in uses_of(model, blocks, shape) if len(use.made) == 4]
    last = dict(maps)  # side -> module; a later one of the same side takes the place of an earlier one
    return tuple(name for side, name in last.items() if side > 1)
