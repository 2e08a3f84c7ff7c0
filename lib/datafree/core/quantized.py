"""Quantised networks: prepare one, measure its ranges, correct its biases, convert it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import DataFreeError
from . import observers, quantizer
from .graph import behind_sums, put_module
from .hooks import evaluating, output_hooks

BIT_RANGE = (2, 16)

MakeObserver = Callable[[int], observers.Observer]
"""Makes the observer of a layer from the width of its input; the classes of `core.observers` do."""


class Rounder(nn.Module):
    """Rounds a tensor on one range, with straight-through gradients; an observer, if there is one, moves the range
    while gradients are on.

    Attributes:
        low, high: l and h; NaN until they are set.
        rounding: False while ranges are measured, in float.
    """

    def __init__(self, act_bits: int, zero_on_grid: bool, device: torch.device | None = None):
        super().__init__()
        self.act_bits, self.zero_on_grid, self.rounding = act_bits, zero_on_grid, True
        self.observer: observers.Observer | None = None
        for end in ("low", "high"):
            self.register_buffer(end, torch.full((), torch.nan, device=device))

    @torch.no_grad()
    def set_range(self, low: torch.Tensor | float, high: torch.Tensor | float) -> None:
        """The range from now on: two scalars, l and h."""
        self.low.fill_(low), self.high.fill_(high)

    def watch(self, x: torch.Tensor) -> None:
        """Let the observer move the range, while gradients are on or ranges are measured."""
        if self.observer is not None and (torch.is_grad_enabled() or not self.rounding):
            self.observer.observe(x)
            self.set_range(*self.observer.range())

    def quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        if self.low.isnan():
            raise DataFreeError(
                "a quantised layer was run before its input range was measured; call quantized.calibrate first."
            )
        grid = quantizer.affine_grid(self.low, self.high, self.act_bits, self.zero_on_grid)
        if torch.is_grad_enabled() and x.requires_grad:
            return quantizer.fake_quantize_tensor(x, grid)
        return quantizer.round_to_grid(x, grid)


class QuantizedSum(Rounder):
    """Rounds what an addition puts out, so that the skip path carries levels as well."""

    def forward(self, x):
        self.watch(x)
        return self.quantize_input(x) if self.rounding else x


class QuantizedLayer(Rounder):
    """A convolution or linear layer that rounds its input (one range a tensor) and its weight; the bias stays float.

    Prepared, the weight is the float master copy, rounded anew in each pass with straight-through gradients.
    Converted, the weight is stored as rounded and nothing is observed any more.

    Attributes:
        inner: the layer, or a module that scales around it and holds it as `inner` (its input is rounded as it comes).
        weight_limits: l and h of the weight, where they are held; None: those of the weight as it is.
    """

    def __init__(
        self, inner: nn.Module, weight_bits: int, act_bits: int, per_channel: bool = True, zero_on_grid: bool = True
    ):
        super().__init__(act_bits, zero_on_grid, getattr(inner, "inner", inner).weight.device)
        self.inner, self.weight_bits, self.per_channel = inner, weight_bits, per_channel
        self.converted = False
        self.weight_limits: quantizer.Limits | None = None

    @property
    def core(self) -> nn.Conv2d | nn.Linear:
        """The convolution or linear layer itself."""
        return getattr(self.inner, "inner", self.inner)

    def quantized_weight(self) -> torch.Tensor:
        """W_hat: what the layer multiplies with."""
        if self.converted:
            return self.core.weight
        return quantizer.quantize_weight(
            self.core.weight, self.weight_bits, self.per_channel, self.zero_on_grid, self.weight_limits
        )

    def forward(self, x):
        self.watch(x)
        if not self.rounding:
            return self.inner(x)
        x = self.quantize_input(x)
        return self.inner(x) if self.converted else self._respond(x, self.quantized_weight())

    def _respond(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """What `inner` makes of x with another weight."""
        if isinstance(self.inner, nn.Linear):
            return nn.functional.linear(x, weight, self.inner.bias)
        if isinstance(self.inner, nn.Conv2d):
            return self.inner._conv_forward(x, weight, self.inner.bias)
        return torch.func.functional_call(self.inner, {"inner.weight": weight}, (x,))

    def extra_repr(self) -> str:
        state = "converted" if self.converted else "prepared"
        return f"w{self.weight_bits}a{self.act_bits}, per_channel={self.per_channel}, {state}"


def quantized_layers(model: nn.Module) -> list[tuple[str, QuantizedLayer]]:
    """All quantised layers with their names."""
    return [(n, m) for n, m in model.named_modules() if isinstance(m, QuantizedLayer)]


def rounders(model: nn.Module) -> list[Rounder]:
    """All that rounds a tensor: quantised layers, and sums where they are rounded."""
    return [m for m in model.modules() if isinstance(m, Rounder)]


def quantized_layer(model: nn.Module, name: str) -> QuantizedLayer:
    """The quantised layer at `name`, or inside the buffers there."""
    module = model.get_submodule(name)
    found = module if isinstance(module, QuantizedLayer) else getattr(module, "inner", None)
    if not isinstance(found, QuantizedLayer):
        raise DataFreeError(f"'{name}' is not quantised; give a network that `quantized.prepare` made.")
    return found


# Prepare and convert --------------------------------------------------------------------------------------------------


def _check_bits(**bits: int | None) -> None:
    for name, value in bits.items():
        if value is not None and not BIT_RANGE[0] <= value <= BIT_RANGE[1]:
            raise DataFreeError(f"{name} is {value}; it must lie between {BIT_RANGE[0]} and {BIT_RANGE[1]}.")


def prepare(
    model: nn.Module, weight_bits: int, act_bits: int, *, edge_bits: int | None = None, per_channel: bool = True,
    zero_on_grid: bool = True, names: Iterable[str] | None = None, observer: MakeObserver | None = None,
    sums: bool = False,
) -> nn.Module:  # fmt: skip
    """A copy of `model` whose layers round their weights and inputs in each pass; ranges of inputs are still to be set.

    Args:
        weight_bits, act_bits: X and Y of XwYa.
        edge_bits: width of weights and inputs of the first and the last layer; None: as all others.
        per_channel: one weight range an output channel, else one a tensor.
        zero_on_grid: whether zero is a level of every grid; without, grids start at the lower end of their range.
        names: layers to quantise; None: every convolution and linear layer.
        observer: moves the ranges while gradients are on, for training from the first step; None: they stay as set.
        sums: round what additions put out, too; else the skip paths of residual networks stay in float.
    """
    _check_bits(weight_bits=weight_bits, act_bits=act_bits, edge_bits=edge_bits)
    student = copy.deepcopy(model)
    every = [n for n, m in student.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    names = every if names is None else list(names)
    if not names:
        raise DataFreeError(f"{type(model).__name__} has no convolution or linear layer to quantise.")
    for name in names:
        layer = QuantizedLayer(student.get_submodule(name), weight_bits, act_bits, per_channel, zero_on_grid)
        put_module(student, name, layer)
    if sums:
        device = next(student.parameters()).device
        around = {type(m) for m in student.modules() if isinstance(getattr(m, "inner", None), QuantizedLayer)}
        whole = (QuantizedLayer, *around)
        student = behind_sums(student, lambda: QuantizedSum(act_bits, zero_on_grid, device), whole)
    set_bits(student.eval(), weight_bits, act_bits, edge_bits)
    for layer in rounders(student):
        layer.observer = observer(layer.act_bits) if observer else None
    return student


def set_bits(student: nn.Module, weight_bits: int, act_bits: int, edge_bits: int | None = None) -> nn.Module:
    """Other widths for the same prepared network, in place; measured ranges stay where they are."""
    _check_bits(weight_bits=weight_bits, act_bits=act_bits, edge_bits=edge_bits)
    found = [layer for _, layer in quantized_layers(student)]
    _refuse_converted(found)
    for i, layer in enumerate(found):
        edge = edge_bits is not None and i in (0, len(found) - 1)
        layer.weight_bits, layer.act_bits = (edge_bits, edge_bits) if edge else (weight_bits, act_bits)
    for one in rounders(student):
        one.act_bits = act_bits if isinstance(one, QuantizedSum) else one.act_bits
    return student


def _refuse_converted(layers: list[QuantizedLayer]) -> None:
    if any(layer.converted for layer in layers):
        raise DataFreeError("a converted network keeps what it is; do this with the prepared one, then convert it.")


def freeze_weight_ranges(student: nn.Module) -> nn.Module:
    """Hold the weight ranges at what they are now; without it they follow the weights."""
    for _, layer in quantized_layers(student):
        layer.weight_limits = quantizer.weight_range(layer.core.weight, layer.per_channel)
    return student


@torch.no_grad()
def convert(student: nn.Module, inplace: bool = False) -> nn.Module:
    """The network as it is used: weights rounded once and stored, ranges where they are.

    inplace: convert `student` itself, which cannot be trained any further then; else a copy.
    """
    done = student if inplace else copy.deepcopy(student)
    for _, layer in quantized_layers(done):
        layer.core.weight.data = layer.quantized_weight().detach()
        layer.converted, layer.weight_limits = True, None
    for one in rounders(done):
        one.observer = None
    return done


# Ranges of inputs -----------------------------------------------------------------------------------------------------


@contextmanager
def observing(
    student: nn.Module, observer: MakeObserver = observers.ChunkAverageObserver
) -> Iterator[list[observers.Observer]]:
    """Within the block forward passes are float, and new observers set the ranges; those measured before are dropped."""
    found = rounders(student)
    _refuse_converted([layer for _, layer in quantized_layers(student)])
    before = [layer.observer for layer in found]
    for layer in found:
        layer.observer, layer.rounding = observer(layer.act_bits), False
        layer.set_range(torch.nan, torch.nan)
    try:
        yield [layer.observer for layer in found]
    finally:
        for layer, old in zip(found, before):
            layer.observer, layer.rounding = old, True


@torch.no_grad()
def calibrate(
    student: nn.Module, batches: Iterable[torch.Tensor], observer: MakeObserver = observers.ChunkAverageObserver
) -> nn.Module:
    """Range of every input of a prepared network, in place, from float passes over images.

    Nothing is rounded in these passes, so the ranges of observers that do not look at the bits serve every width.

    Args:
        batches: [N, C, H, W] each.
        observer: a class of `core.observers`, or what makes one from a layer's width.
    """
    with evaluating(student), observing(student, observer) as found:
        for x in batches:
            student(x)
        for one in found[:1]:
            one.range()  # says so where there was no batch
    return student


# Biases ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def correct_bias(layer: QuantizedLayer, shift: torch.Tensor) -> None:
    r"""Give a layer back the mean that rounding took, in place (Nagel et al., 2019, section 4.2).

    .. math:: b_c \leftarrow b_c + \mathrm{E}[y_c] - \mathrm{E}[\hat y_c]

    Args:
        shift: E[y] - E[y_hat], [O]; see `expected_shift` and `measured_shift`. A layer without bias gets one.
    """
    core = layer.core
    if core.bias is None:
        core.bias = nn.Parameter(torch.zeros_like(shift))
    core.bias += shift


@torch.no_grad()
def expected_shift(layer: QuantizedLayer, weight: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    r"""E[y] - E[y_hat] where the mean of the input is known (Nagel et al., 2019, section 4.2).

    .. math:: \mathrm{E}[y] - \mathrm{E}[\hat y] = (W - \hat W)\, \mathrm{E}[x]

    Args:
        weight: W, before rounding.
        mean: E[x] of each input channel; a linear layer may have several columns a channel.
    Returns:
        [O]; exact away from borders.
    """
    return response_to_constant(weight - layer.quantized_weight(), mean, layer.core)


def response_to_constant(weight: torch.Tensor, c: torch.Tensor, layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """W c: what `layer` answers with this weight, away from borders, without its bias, to c_i everywhere in channel i; [O]."""
    if isinstance(layer, nn.Linear):
        return weight @ c.repeat_interleave(layer.in_features // len(c))
    kernels = weight.flatten(2).sum(2).unflatten(0, (layer.groups, -1))  # [G, O/G, I/G]
    return (kernels * c.view(layer.groups, 1, -1)).sum(2).flatten()


@torch.no_grad()
def channel_means(model: nn.Module, names: Iterable[str], images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean output [O] of the named layers over `images` and positions."""
    means: dict[str, torch.Tensor] = {}

    def note(name: str, _x: torch.Tensor, y: torch.Tensor) -> None:
        means[name] = y.transpose(0, 1).flatten(1).mean(1)

    with output_hooks(model, names, note), evaluating(model):
        model(images)
    return means


def measured_shift(student: nn.Module, name: str, wanted: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """E[y] - E[y_hat] of one layer on images, behind the layers before it as they are now; wanted: E[y], [O]."""
    return wanted - channel_means(student, [name], images)[name]


def correct_biases(student: nn.Module, teacher: nn.Module, images: torch.Tensor) -> nn.Module:
    """Correct every bias by the shift measured on images, in place: each layer sees what the corrected ones before it make.

    Args:
        student: quantised and calibrated. teacher: the float network with the same names.
        images: [N, C, H, W].
    """
    names = [name for name, _ in quantized_layers(student)]
    wanted = channel_means(teacher, names, images)
    for name, layer in quantized_layers(student):
        correct_bias(layer, measured_shift(student, name, wanted[name], images))
    return student
