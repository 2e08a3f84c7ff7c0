"""FRanDI, section 3.3: Output Discrepancy and the search for ranks (eqs. 6, 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field

from ...config import Precision, Strict
from ...core.metrics import outputs
from ...core.precision import uses_bf16
from ...data.images import ImageSet
from ...errors import DataFreeError
from . import candidates, compressible, regression

Rows = Sequence[tuple[int, ...]]
"""Sets of ranks, or of kept weights: one number a layer, in the order of `CompressibleLayers.layers`."""


class Search(Strict):
    """The budget, and how sets of ranks are drawn and compared."""

    reduction: float = Field(4.0, gt=1, description="1 / alpha of eq. 7: how many times less the network may cost")
    budget: Literal["flops", "parameters"] = Field("flops", description="C of eq. 7; masks save parameters only")
    tolerance: float = Field(0.01, gt=0, lt=1, description="Delta alpha of eq. 7; not given")
    lowest: float = Field(0.5, gt=0, description="r_min as a share of alpha; not given")
    highest: float = Field(1.5, gt=0, description="r_max as a share of alpha, one at most; not given")
    candidates: int = Field(500, ge=1, description="draws that fit the budget (section 5.1: 500)")
    branches: int = Field(8, ge=0, description="distinct ranks of the first third of the layers, and for each of them "
                          "of the second; 0: all draws independent, as in the paper")  # fmt: skip
    calibrated: bool = Field(True, description="Output Discrepancy with the statistics of the batch (figure 2b)")
    precision: Precision = Field("auto", description="of the candidates' passes")
    seed: int = Field(0, ge=0)

    @property
    def range(self) -> tuple[float, float]:
        """(r_min, r_max) as kept shares of a layer's weights."""
        return self.lowest / self.reduction, min(1.0, self.highest / self.reduction)


def output_discrepancy(student: torch.Tensor, teacher: torch.Tensor, scope: str = "tensor") -> torch.Tensor:
    r"""Score of a compressed network that needs no label (FRanDI, eq. 6).

    .. math:: \mathrm{OD}(\tilde F, F) = \left\| \frac{\tilde F(x)}{\|\tilde F(x)\|_2} - \frac{F(x)}{\|F(x)\|_2} \right\|_2

    Args:
        student, teacher: outputs of the networks on the same images, [N, ...].
    Returns:
        a scalar from 0 to 2, lower is better. Book: {ref}`fr-od`.
    """
    return regression.discrepancy(student, teacher, scope)


def within_budget(cost: torch.Tensor, dense: float, config: Search) -> torch.Tensor:
    r"""Which costs fit (FRanDI, eq. 7).

    .. math:: (\alpha - \Delta\alpha)\, C \le C(R) \le (\alpha + \Delta\alpha)\, C

    Args:
        cost: C(R), any shape; dense: C, of the network as it is.
    Returns:
        true or false, of the same shape. Book: {ref}`fr-budget`.
    """
    alpha = 1 / config.reduction
    return ((alpha - config.tolerance) * dense <= cost) & (cost <= (alpha + config.tolerance) * dense)


class Sampler:
    """Draws ranks, or counts of weights, at random and keeps those that fit the budget; costs come from a product of matrices."""

    DRAWS, ROUNDS = 4096, 25
    """Sets drawn at once, and how often before the budget counts as out of reach."""

    def __init__(self, factors: compressible.CompressibleLayers, config: Search):
        self.config, self.layers = config, list(factors.layers.values())
        self.generator = torch.Generator().manual_seed(config.seed)
        flops = config.budget == "flops"
        self.dense = factors.dense_macs if flops else factors.dense_parameters
        # C(R) = rest + sum over layers of R_l times the cost of one rank
        saved = sum(s.macs if flops else s.weights for s in self.layers)
        self.rest = self.dense - saved
        self.slopes = torch.tensor(
            [s.macs_per_rank if flops else s.weights_per_rank for s in self.layers], dtype=torch.float64, device="cpu"
        )
        self.unit = torch.tensor(
            [s.weights / s.weights_per_rank for s in self.layers], dtype=torch.float64, device="cpu"
        )
        self.full = torch.tensor([s.full_rank for s in self.layers], dtype=torch.float64, device="cpu")

    def draw(self) -> torch.Tensor:
        """Ranks [DRAWS, layers] whose kept shares are uniform in [r_min, r_max]."""
        low, high = self.config.range
        share = torch.rand(self.DRAWS, len(self.layers), generator=self.generator, dtype=torch.float64, device="cpu")
        # shares of the weights as whole ranks, from 1 to the full one
        return torch.minimum(((low + (high - low) * share) * self.unit).round().clamp_min(1), self.full)

    def complete(self, row: torch.Tensor | None = None, keep: int = 0) -> torch.Tensor:
        """Ranks that fit the budget; the first `keep` are those of `row`, which comes back where no draw fits."""
        for _ in range(self.ROUNDS):
            drawn = self.draw()
            if row is not None:
                drawn[:, :keep] = row[:keep]
            # one product of matrices costs all draws
            good = within_budget(self.rest + drawn @ self.slopes, self.dense, self.config).nonzero()
            if len(good):
                return drawn[good[0, 0]]
        if row is not None:
            return row
        low, high = self.config.range
        raise DataFreeError(
            f"of {self.ROUNDS * self.DRAWS} random sets none costs {self.config.reduction:g} times less within "
            f"{self.config.tolerance:g}; layers that stay dense cost {self.rest / self.dense:.3f} of the network, and the "
            f"others keep {low:.3f} to {high:.3f}. Ask for less reduction, or a wider tolerance or range."
        )

    def rows(self) -> list[tuple[int, ...]]:
        """The candidates; with `branches` many of them begin alike."""
        count, branches, layers = self.config.candidates, self.config.branches, len(self.layers)
        roots: list[torch.Tensor | None] = [None]
        keep = 0
        for end in (layers // 3, 2 * layers // 3) if branches else ():
            # a tree: first third of the layers, then the second; the candidates differ in the last
            roots = [self.complete(root, keep) for root in roots for _ in range(branches)]
            keep = end
        drawn = [self.complete(roots[i % len(roots)], keep) for i in range(count)]
        return [tuple(int(rank) for rank in row) for row in drawn]


@torch.no_grad()
def discrepancies(
    factors: compressible.CompressibleLayers,
    rows: Rows,
    images: ImageSet,
    *,
    calibrated: bool = False,
    precision: str = "auto",
) -> list[float]:
    """Output Discrepancy of each set of ranks on `images`; the dense network's outputs are computed once.

    Args:
        calibrated: with BatchNorm's statistics from the same images (figure 2b), else with the stored ones (2a).
    """
    half = uses_bf16(precision, images.pixels.device)
    wanted = outputs(factors.model, images, bf16=half)
    many = candidates.Candidates(factors, calibrated=calibrated, bf16=half)
    return many.scores(images, rows, lambda z: output_discrepancy(z, wanted).item())


class Found(NamedTuple):
    """What a search saw: the best ranks by layer, all sets that fitted the budget, and their scores."""

    ranks: dict[str, int]
    rows: list[tuple[int, ...]]
    scores: list[float]


def search(factors: compressible.CompressibleLayers, images: ImageSet, config: Search) -> Found:
    """The candidate of lowest Output Discrepancy among random ones that fit the budget (section 3.3)."""
    rows = Sampler(factors, config).rows()
    scores = discrepancies(factors, rows, images, calibrated=config.calibrated, precision=config.precision)
    if not all(map(math.isfinite, scores)):
        raise DataFreeError("the Output Discrepancy of a candidate is NaN; check the network's weights and the images.")
    best = min(range(len(rows)), key=scores.__getitem__)
    return Found(dict(zip(factors.layers, rows[best])), rows, scores)
