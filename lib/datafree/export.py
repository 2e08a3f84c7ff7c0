"""A compressed network as a file that runs without this library: ONNX with integer weights, or a torch.export program."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from . import files
from .core import quantizer
from .core.graph import put_module
from .core.hooks import frozen
from .core.quantized import QuantizedLayer, QuantizedSum, Rounder
from .errors import DataFreeError

OPSET = 21
BYTE = 8
"""Widest grid that a file holds, in bits: its levels are bytes."""
NEAR = 0.01
"""A value lies on a level where it is this close to it, in steps."""


class StoredWeight(NamedTuple):
    """W_hat = scale (levels - zero_point) + origin, each channel of its own.

    levels: int8 or uint8, of the weight's shape; scale, zero_point, origin: [O].
    """

    levels: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor
    origin: torch.Tensor | None


def _step(values: torch.Tensor, bits: int) -> torch.Tensor | None:
    """The largest step of which all values [M] of a channel are multiples, with at most 2^b levels from end to end."""
    span = values.amax().clamp(min=0) - values.amin().clamp(max=0)
    if span == 0:
        return torch.ones_like(span)
    steps = span / torch.arange(1, 2**bits, device=values.device)
    seen = values.unique()
    for step in steps:
        multiples = seen / step
        if ((multiples - multiples.round()).abs() < NEAR).all():
            return step
    return None


def stored_weight(layer: QuantizedLayer, name: str) -> StoredWeight:
    """The levels of a layer's rounded weight, found from its values: ranges that were searched or learned are no matter."""
    weight = layer.quantized_weight().detach().double()
    flat = weight.flatten(1)
    origin = None if layer.zero_on_grid else flat.amin(1)
    flat = flat if origin is None else flat - origin[:, None]
    steps = [_step(channel, layer.weight_bits) for channel in flat]
    if any(step is None for step in steps):
        raise DataFreeError(
            f"the weight of '{name}' does not lie on {2**layer.weight_bits} even levels a channel; convert the network "
            "with datafree.core.quantized.convert before it is exported."
        )
    scale = torch.stack(steps)
    numbers = (flat / scale[:, None]).round()
    signed = numbers.amin() >= -128 and numbers.amax() <= 127
    zero = torch.zeros_like(scale) if signed else -numbers.amin(1)
    kind = torch.int8 if signed else torch.uint8
    levels = (numbers + zero[:, None]).to(kind).view(weight.shape)
    return StoredWeight(levels, scale.float(), zero.to(kind), None if origin is None else origin.float())


class _Portable(nn.Module):
    """What a Rounder does to its input, in operations that torch.export and ONNX know."""

    def __init__(self, rounder: Rounder, name: str, onnx: bool):
        super().__init__()
        if rounder.low.isnan():
            raise DataFreeError(
                f"the input range of '{name}' was not measured; calibrate the network before its export."
            )
        grid = quantizer.affine_grid(rounder.low, rounder.high, rounder.act_bits, rounder.zero_on_grid)
        self.onnx, self.top = onnx, grid.top
        self.origin = float(grid.origin)
        self.register_buffer("scale", grid.scale.detach().clone())
        self.register_buffer("zero", torch.as_tensor(grid.zero_point, device=grid.scale.device).to(torch.uint8))
        self.ends = tuple(float((level - self.zero.float()) * grid.scale) for level in (0, grid.top))

    def round(self, x: torch.Tensor) -> torch.Tensor:
        """x on its grid; narrower grids than a byte are clipped first."""
        x = x - self.origin if self.origin else x
        if self.onnx:
            x = x.clamp(*self.ends) if self.top < 2**BYTE - 1 else x
            levels = _onnx("QuantizeLinear", (x, self.scale, self.zero), torch.uint8, x.shape)
            x = _onnx("DequantizeLinear", (levels, self.scale, self.zero), torch.float32, x.shape)
        else:
            zero = self.zero.float()
            x = ((x / self.scale).round().clamp(-zero, self.top - zero)) * self.scale
        return x + self.origin if self.origin else x


def _onnx(operator: str, inputs: tuple, kind: torch.dtype, shape, **attributes) -> torch.Tensor:
    """A node of that ONNX operator."""
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=kind, shape=shape, version=OPSET)


class _PortableSum(_Portable):
    def forward(self, x):
        return self.round(x)


class _PortableLayer(_Portable):
    """A quantised layer whose weight is stored as levels."""

    def __init__(self, layer: QuantizedLayer, name: str, onnx: bool):
        super().__init__(layer, name, onnx)
        weight = stored_weight(layer, name)
        for part, value in weight._asdict().items():
            self.register_buffer(f"weight_{part}", value)
        self.inner, self.layer = (
            layer.inner,
            [layer],
        )  # in a list: the layer's own weight is not stored beside its levels
        layer.core.weight = nn.Parameter(torch.zeros(0, device=weight.levels.device), requires_grad=False)

    def weight(self) -> torch.Tensor:
        levels, scale, zero = self.weight_levels, self.weight_scale, self.weight_zero_point
        column = (-1, *[1] * (levels.ndim - 1))
        if self.onnx:
            made = _onnx("DequantizeLinear", (levels, scale, zero), torch.float32, levels.shape, axis=0)
        else:
            made = (levels.float() - zero.float().view(column)) * scale.view(column)
        return made if self.weight_origin is None else made + self.weight_origin.view(column)

    def forward(self, x):
        return self.layer[0]._respond(self.round(x), self.weight())


def portable(model: nn.Module, *, onnx: bool = False) -> nn.Module:
    """A copy of `model` for export: quantised layers hold the levels of their weights as bytes.

    onnx: in ONNX's own QuantizeLinear and DequantizeLinear, which only the exporter can run.
    """
    made = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module in list(made.named_modules()):
        if not isinstance(module, Rounder):
            continue
        wide = max(module.act_bits, getattr(module, "weight_bits", 0))
        if wide > BYTE:
            raise DataFreeError(f"'{name}' has {wide} bits; a file holds at most {BYTE}.")
        put_module(
            made, name, (_PortableSum if isinstance(module, QuantizedSum) else _PortableLayer)(module, name, onnx)
        )
    return made


def export(model: nn.Module, out: str | Path, shape: tuple[int, int, int] = (3, 32, 32)) -> Path:
    """Write `model` for batches of any size of images of `shape`, as .onnx (QDQ nodes) or .pt2 (torch.export).

    Args:
        model: float, pruned, factorised, or quantised with measured ranges and at most 8 bits.
        out: its ending says which; `torch.export.load(out).module()` reads a .pt2, onnxruntime an .onnx.
    """
    out = Path(out)
    if out.suffix not in (".onnx", ".pt2"):
        raise DataFreeError(f"'{out}' must end in .onnx (for onnxruntime) or .pt2 (for torch.export.load).")
    if out.suffix == ".onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise DataFreeError("writing ONNX needs the packages onnx and onnxscript; pip install 'datafree[export]'.")
    made = portable(model, onnx=out.suffix == ".onnx")
    device = next(model.parameters(), torch.empty(0)).device
    images = torch.zeros(2, *shape, device=device)
    batch = ({0: torch.export.Dim("batch")},)
    write = _write_onnx if out.suffix == ".onnx" else _write_program
    with frozen(made), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*LeafSpec", FutureWarning)  # torch's own, about its own code
        try:
            files.write_atomically(out, lambda path: write(made, images, batch, path))
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataFreeError(f"torch cannot export this network ({reason}).") from None
    return out


def _write_program(model: nn.Module, images: torch.Tensor, batch, path: Path) -> None:
    with open(path, "wb") as file:
        torch.export.save(torch.export.export(model, (images,), dynamic_shapes=batch), file)


def _write_onnx(model: nn.Module, images: torch.Tensor, batch, path: Path) -> None:
    program = torch.onnx.export(
        model, (images,), dynamo=True, dynamic_shapes=batch, opset_version=OPSET, verbose=False,
        input_names=["images"], output_names=["scores"],
    )  # fmt: skip
    path.write_bytes(_without_traces(program.model_proto).SerializeToString())


def _without_traces(model):
    """`model`, an ONNX protocol buffer, without the lines of Python that each node came from."""
    del model.graph.value_info[:]
    for node in model.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    return model
