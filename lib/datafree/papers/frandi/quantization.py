"""FRanDI on quantised networks (tables 3 and 9): round, set ranges, calibrate BatchNorm, regress features.

The paper gives widths of weights and inputs, and no more: granularity, ranges, edge layers and the gradient of rounding
are choices of this library. Synthesis and Feature Regression are those of `frandi`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ...config import Strict
from ...core import batchnorm, observers, quantized
from ...data.images import ImageSet
from . import regression
from .synthesis import Synthesis, synthesize

OBSERVERS = {
    "extremes": observers.MinMaxObserver,
    "percentile": observers.PercentileObserver,
    "mse": observers.MSEObserver,
}
"""How the range of a layer's inputs is found on the images."""


class FRanDIQuantization(Strict):
    """What `datafree.compress` needs to know for this paper's quantisation."""

    weight_bits: int = Field(4, ge=2, le=16, description="X of wXaY (table 9: 3, 4 and 8)")
    act_bits: int = Field(4, ge=2, le=16, description="Y of wXaY (table 9: 3, 4 and 8)")
    edge_bits: int | None = Field(
        None, ge=2, le=16, description="width of first and last layer; None: as the others; not given"
    )
    per_channel: bool = Field(True, description="a weight range for each output channel, or one a tensor; not given")
    ranges: Literal["extremes", "percentile", "mse"] = Field("mse", description="of the inputs; not given")
    calibrated: bool = Field(True, description="BatchNorm's statistics measured again in the rounded network (4.2)")
    synthesis: Synthesis = Synthesis()
    recovery: regression.Recovery | None = regression.Recovery()


def rounded(model: nn.Module, config: FRanDIQuantization, pool: ImageSet) -> nn.Module:
    """A quantised copy, its ranges and its BatchNorm measured on `pool`: the student before recovery."""
    student = quantized.prepare(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )
    quantized.calibrate(student, [pool.floats()], OBSERVERS[config.ranges])
    if config.calibrated and any(isinstance(m, nn.BatchNorm2d) for m in student.modules()):
        batchnorm.recalibrate(student, pool)
    return student


def compress(
    model: nn.Module, config: FRanDIQuantization, pool: ImageSet | None, shape: tuple[int, int, int]
) -> tuple[nn.Module, dict]:
    """Round the network, measure it on one set of synthetic images, and regress the features of all its layers on them.

    The ranges of inputs stay as measured; those of weights follow the weights.
    """
    report: dict = {"images": "given"}
    if pool is None:
        pool, history = synthesize(model, config.synthesis, shape)
        report = {"images": pool.name, "synthesis_loss": history[-1]}
    student = rounded(model, config, pool)
    if config.recovery:
        layers = [name for name, _ in quantized.quantized_layers(student)]
        report["regression_loss"] = regression.Regression(student, model, layers, pool, config.recovery).run()[-1]
    return student, report
