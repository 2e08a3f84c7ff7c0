"""One verb for four papers: `datafree.compress(model, config)`; the class of the config says which."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

from torch import nn

from .config import Strict
from .core import batchnorm
from .core.flops import count_macs, count_parameters, weight_bytes
from .data.images import ImageSet
from .errors import DataFreeError
from .papers.frandi import compression as frandi
from .papers.frandi import quantization as frandi_quantization
from .papers.knowledge_within import calibration
from .papers.layerwise import pruning
from .papers.layerwise import quantization as layerwise
from .papers.udfc import compression as udfc

METHODS = {
    calibration.KnowledgeWithin: calibration.compress,
    layerwise.LayerWise: layerwise.compress,
    pruning.LayerWisePruning: pruning.compress,
    udfc.UDFC: udfc.compress,
    frandi.FRanDI: frandi.compress,
    frandi_quantization.FRanDIQuantization: frandi_quantization.compress,
}
"""Config class -> function (model, config, pool, shape) -> (network, report)."""


@dataclass(frozen=True)
class Result:
    """The compressed network and what was done to it, at which cost."""

    model: nn.Module
    report: dict


def preflight(model: nn.Module, config: Strict) -> None:
    """Name what cannot be handled before any work is done."""
    if type(config) not in METHODS:
        known = ", ".join(c.__name__ for c in METHODS)
        raise DataFreeError(f"compress got a {type(config).__name__}; give one of the configurations {known}.")
    if not isinstance(model, nn.Module):
        raise DataFreeError(f"compress got a {type(model).__name__} as model; give a torch.nn.Module.")
    unsupported = [
        n for n, m in model.named_modules() if isinstance(m, nn.ConvTranspose2d | nn.Conv1d | nn.Conv3d | nn.RNNBase)
    ]
    if unsupported:
        raise DataFreeError(
            f"layer '{unsupported[0]}' is of a kind that is not supported; convolutions must be Conv2d."
        )


def compress(model: nn.Module, config: Strict, images: ImageSet | None = None, shape=(3, 32, 32)) -> Result:
    """Compress `model` as `config` says; `model` itself is not changed.

    Args:
        model: a trained network whose first layer normalises its input (datafree.networks.blocks.Normalize).
        config: e.g. KnowledgeWithin(weight_bits=4, act_bits=4), LayerWise(weight_bits=4, act_bits=4), UDFC(prune_ratio=0.3, repair="gaussian"),
            FRanDI(reduction=4.0), or FRanDIQuantization(weight_bits=4, act_bits=4).
        images: use these instead of generated ones.
        shape: of one image: for generation, and for the count of operations.
    Returns:
        `.model`, and `.report` with bits, bytes, MACs (multiply-accumulates, one image) before and after, seconds and peak memory.
    """
    preflight(model, config)
    if images is None and not isinstance(config, udfc.UDFC) and getattr(config, "scheme", "") != "gaussian":
        batchnorm.layers(model)  # generation needs BatchNorm: say so now
    start = time.perf_counter()
    student, report = METHODS[type(config)](model, config, images, tuple(shape))
    report = {
        "method": type(config).__name__,
        "config": config.model_dump(),
        "parameters": count_parameters(student),
        "bytes": weight_bytes(student),
        "bytes_float": weight_bytes(model),
        "macs": count_macs(student, shape),
        "macs_float": count_macs(model, shape),
        "seconds": time.perf_counter() - start,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    } | report
    return Result(student, report)
