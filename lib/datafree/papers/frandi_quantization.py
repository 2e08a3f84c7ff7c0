"""FRanDI on quantised networks (tables 3 and 9): round, set ranges, calibrate BatchNorm, regress features.

The paper gives widths of weights and inputs, and no more: granularity, ranges, edge layers and the gradient of rounding
are choices of this library. Synthesis and Feature Regression are those of `frandi`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from .. import bn, data, ranges
from ..params import Strict
from ..quantize import quantized, quantized_layers
from . import frandi

RULES = {"extremes": ranges.extremes, "percentile": ranges.percentile_range, "mse": ranges.mse_range}
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
    synthesis: frandi.Synthesis = frandi.Synthesis()
    recovery: frandi.Recovery | None = frandi.Recovery()


def rounded(model: nn.Module, config: FRanDIQuantization, pool: data.ImageSet) -> nn.Module:
    """A quantised copy, its ranges and its BatchNorm measured on `pool`: the student before recovery."""
    student = quantized(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )
    ranges.set_ranges(student, pool.floats(), RULES[config.ranges])
    if config.calibrated and any(isinstance(m, nn.BatchNorm2d) for m in student.modules()):
        bn.recalibrate(student, pool)
    return student


def compress(
    model: nn.Module, config: FRanDIQuantization, pool: data.ImageSet | None, shape: tuple[int, int, int]
) -> tuple[nn.Module, dict]:
    """Round the network, measure it on one set of synthetic images, and regress the features of all its layers on them.

    The ranges of inputs stay as measured; those of weights follow the weights.
    """
    report: dict = {"images": "given"}
    if pool is None:
        pool, history = frandi.synthesize(model, config.synthesis, shape)
        report = {"images": pool.name, "synthesis_loss": history[-1]}
    student = rounded(model, config, pool)
    if config.recovery:
        layers = [name for name, _ in quantized_layers(student)]
        report["regression_loss"] = frandi.Regression(student, model, layers, pool, config.recovery).run()[-1]
    return student, report
