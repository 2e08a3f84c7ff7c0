"""One verb for all papers: `datafree.compress(model, config)`; the class of the config says which method.

Importing this module imports every paper, and so fills the register of methods (core/register.py).
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from . import files, papers
from .config import Strict, device_named, validate
from .core import batchnorm
from .core.flops import count_macs, count_parameters, weight_bytes
from .core.metrics import accuracies, mean_iou
from .core.preflight import check_output, check_values, checked
from .core.provenance import peak_memory_mb
from .core.register import METHODS, Method, Result, fitting, method_of
from .data.images import ImageSet
from .errors import DataFreeError
from .networks.weights import load_state, read_state, structure_of
from .networks.zoo import build_network


def find_methods() -> dict[str, Method]:
    """Import every module below `datafree.papers`, so that each method registers itself: name -> method."""
    for module in pkgutil.walk_packages(papers.__path__, f"{papers.__name__}."):
        importlib.import_module(module.name)
    return METHODS


find_methods()


# Compress ---------------------------------------------------------------------------------------------------------


def preflight(model: nn.Module, config: Strict, images: ImageSet | None, shape: tuple) -> Method:
    """The method that `config` belongs to; what it cannot handle is named before any work is done."""
    method = method_of(config)
    checked(model, shape)
    if images is not None and not method.takes_images:
        others = ", ".join(m.config.__name__ for m in METHODS.values() if m.takes_images)
        raise DataFreeError(f"{type(config).__name__} uses no images; leave them out, or choose one of {others}.")
    if images is None and method.needs_batchnorm(config):
        batchnorm.layers(model)  # raises where there are none: what stands for the images is made from them
    return method


def compress(model: nn.Module, config: Strict, images: ImageSet | None = None, shape=(3, 32, 32)) -> Result:
    """Compress `model` as `config` says; `model` itself is not changed.

    Args:
        model: a trained network whose first layer normalises its input (datafree.networks.blocks.Normalize).
        config: settings of a method, for instance UDFC(prune_ratio=0.3, repair="gaussian"). `datafree methods` lists them.
        images: use these instead of generated ones.
        shape: of one image: for generation, and for the count of operations.
    Returns:
        `.model`, and `.report` with bits, bytes, MACs (multiply-accumulates, one image) before and after, seconds and
        peak memory in MiB.
    """
    shape = tuple(shape)
    method = preflight(model, config, images, shape)
    start = time.perf_counter()
    student, details = method.compress(model, config, **fitting(method.compress, images=images, shape=shape))
    report = {
        "method": method.name,
        "config": config.model_dump(),
        "shape": list(shape),
        "parameters": count_parameters(student),
        "bytes": weight_bytes(student),
        "bytes_float": weight_bytes(model),
        "macs": count_macs(student, shape),
        "macs_float": count_macs(model, shape),
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": peak_memory_mb(),
    }
    return Result(student, report | details)


# Write, and read back ---------------------------------------------------------------------------------------------


def save_compressed(result: Result, out: str | Path) -> Path:
    """Write the weights to `out` (.safetensors), and the report beside it (.json); `load_compressed` reads both."""
    out = files.weights_name(out)
    state = {k: v.contiguous() for k, v in result.model.state_dict().items()}
    files.write_atomically(out, lambda p: save_file(state, p))
    files.write_atomically(out.with_suffix(".json"), lambda p: p.write_text(json.dumps(result.report, indent=1) + "\n"))
    return out


def read_report(path: str | Path) -> dict:
    """A report of `datafree compress`; DataFreeError where it is none."""
    try:
        report = json.loads(Path(path).read_text())
        report["config"].items(), report["method"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataFreeError(f"'{path}' is not a report of `datafree compress`.") from None
    return report


def load_compressed(name: str, weights: str | Path | None, report: str | Path, *, device: str = "cpu") -> nn.Module:
    """The compressed network `name` in evaluation mode, on `device`: its structure from its report, its values from its weights."""
    path, place = Path(report), device_named(device)
    if weights is None or not path.is_file():
        raise DataFreeError(
            "give --weights OUT.safetensors together with --report OUT.json, as `datafree compress` wrote them."
        )
    report = read_report(path)
    method = METHODS.get(str(report["method"]))
    if method is None:
        raise DataFreeError(f"'{path}' names a method '{report['method']}' that is not known.")
    config = validate(method.config, report["config"], f"'{path}'")
    state = read_state(weights)
    network = build_network(name, **structure_of(name, state))
    try:
        student = method.structure(network, **fitting(method.structure, config=config, report=report, state=state))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataFreeError(f"'{path}' does not describe what is in '{weights}' ({error}).") from None
    return load_state(student, state, f"'{weights}'").eval().to(place)


# Evaluate ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet) -> dict[str, float]:
    """What the network is worth on `images`, in percent: {"top1", "top5"}, or {"mean_iou"} where pixels have labels."""
    check_values(model)
    classes = check_output(model, tuple(next(images[:1].batches(1))[0].shape[1:]))[1]
    if classes != len(images.classes):
        raise DataFreeError(
            f"'{images.name}' has {len(images.classes)} classes, the network {classes}; give images of its classes."
        )
    if images.labels.ndim == 3:
        return {"mean_iou": mean_iou(model, images)}
    return dict(zip(("top1", "top5"), accuracies(model, images, (1, 5)), strict=True))
