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
from ...core.register import Result, method
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


def unmeasured(model: nn.Module, config: FRanDIQuantization) -> nn.Module:
    """A quantised copy whose input ranges are still to be measured."""
    return quantized.prepare(
        model, config.weight_bits, config.act_bits, edge_bits=config.edge_bits, per_channel=config.per_channel
    )


def rounded(model: nn.Module, config: FRanDIQuantization, images: ImageSet) -> nn.Module:
    """A quantised copy, its ranges and its BatchNorm measured on `images`: the student before recovery."""
    student = unmeasured(model, config)
    quantized.calibrate(student, [images.floats()], OBSERVERS[config.ranges])
    if config.calibrated and any(isinstance(m, nn.BatchNorm2d) for m in student.modules()):
        batchnorm.recalibrate(student, images)
    return student


@method(
    "frandi_quantization",
    paper="FRanDI",
    about="quantise; features regressed on synthetic images",
    structure=unmeasured,
    needs_batchnorm=True,
)
def compress(
    model: nn.Module,
    config: FRanDIQuantization,
    images: ImageSet | None = None,
    shape: tuple[int, int, int] = (3, 32, 32),
) -> Result:
    """Round the network, measure it on one set of synthetic images, and regress the features of all its layers on them.

    The ranges of inputs stay as measured; those of weights follow the weights.
    """
    report: dict = {"images": "given"}
    if images is None:
        images, history = synthesize(model, config.synthesis, shape)
        report = {"images": images.name, "synthesis_loss": history[-1]}
    student = rounded(model, config, images)
    if config.recovery:
        layers = [name for name, _ in quantized.quantized_layers(student)]
        report["regression_loss"] = regression.Regression(student, model, layers, images, config.recovery).run()[-1]
    return Result(student, report)
