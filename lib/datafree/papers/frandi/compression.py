"""FRanDI (Sobolev, Ermilov, Kozyrskiy, Phan): synthesise, search, compress, calibrate, regress features.

The split of weights (eq. 2, appendix A.2) lives in `factorization`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from ...core import batchnorm
from ...core.register import Result, method
from ...data.images import ImageSet
from . import compressible, factorization, magnitude, regression, selection
from .synthesis import Synthesis, synthesize

COMPRESSORS: dict[str, type[compressible.CompressibleLayers]] = {
    "spatial_svd": factorization.Factorizer,
    "magnitude": magnitude.Pruner,
}


class FRanDI(selection.Search):
    """What `datafree.compress` needs to know for this paper: the budget, the search, synthesis and recovery."""

    compressor: Literal["spatial_svd", "magnitude"] = Field(
        "spatial_svd", description="what is chosen for each layer: a rank, or how many weights stay (table 4)"
    )
    synthesis: Synthesis = Synthesis()
    recovery: regression.Recovery | None = regression.Recovery()

    @model_validator(mode="after")
    def _masks_save_no_operations(self):
        if self.compressor == "magnitude" and self.budget == "flops":
            raise ValueError("pruned weights save no operations; give budget='parameters' with compressor='magnitude'")
        return self


def structure(model: nn.Module, config: FRanDI, report: dict) -> nn.Module:
    """The network that the ranks of a report describe: convolutions split, or weights masked."""
    return COMPRESSORS[config.compressor](model, tuple(report["shape"])).network(report["ranks"])


@method(
    "frandi",
    paper="FRanDI",
    about="split convolutions or prune weights; ranks by Output Discrepancy, features regressed",
    structure=structure,
    needs_batchnorm=True,
)
def compress(
    model: nn.Module, config: FRanDI, images: ImageSet | None = None, shape: tuple[int, int, int] = (3, 32, 32)
) -> Result:
    """Search, compress, calibrate BatchNorm, regress features; all on one set of synthetic images."""
    factors = COMPRESSORS[config.compressor](model, shape)
    report: dict = {"images": "given"}
    if images is None:
        images, history = synthesize(model, config.synthesis, shape)
        report = {"images": images.name, "synthesis_loss": history[-1]}
    found = selection.search(factors, images, config)
    student = factors.network(found.ranks)
    if any(isinstance(m, nn.BatchNorm2d) for m in student.modules()):
        batchnorm.recalibrate(student, images)
    report |= {"ranks": found.ranks, "kept_parameters": factors.parameters(found.ranks)}
    report |= {"output_discrepancy": min(found.scores), "candidates": len(found.rows)}
    if config.recovery:
        with factors.held(student, found.ranks):
            report["regression_loss"] = regression.Regression(
                student, model, list(found.ranks), images, config.recovery
            ).run()[-1]
    return Result(student, report)
