"""FRanDI (Sobolev, Ermilov, Kozyrskiy, Phan): images from BatchNorm, features regressed on them, ranks chosen by them.

Section 3.1 synthesis (eq. 1), 3.2 Feature Regression (eqs. 3 to 5), 3.3 Output Discrepancy and the search (eqs. 6, 7).
The split of weights (eq. 2, appendix A.2) lives in `datafree.factorize`, the divergence itself in `datafree.bn`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from .. import bn, data
from ..candidates import Candidates
from ..compute import Precision, autocast, uses_bf16
from ..distill import FitConfig, fit, taps
from ..errors import DataFreeError
from ..evaluate import evaluating, outputs
from ..factorize import Factorizer
from ..generative import optimise_images, total_variation
from ..graph import trace
from ..params import Strict
from ..prune import Pruner
from ..sites import Sites

Rows = Sequence[tuple[int, ...]]
"""Sets of ranks, or of kept weights: one number a layer, in the order of `Sites.sites`."""


class Synthesis(FitConfig):
    """How the images are made (section 4). Start, clipping, augmentation and schedule are not given."""

    steps: int = Field(500, ge=1, description="of Adam (section 4: 500)")
    rate: float = Field(0.1, gt=0, description="of Adam, in deviations of the input (section 4: 0.1)")
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = Field(0.5, ge=0, lt=1, description="beta_1 (section 4: 0.5)")
    beta2: float = Field(0.9, ge=0, lt=1, description="beta_2 (section 4: 0.9)")
    warmup: float = Field(0.0, ge=0, lt=1)
    schedule: Literal["cosine", "constant"] = "constant"
    images: int = Field(256, ge=2, description="one batch, which is the whole set (section 4.1: 256)")
    literal: bool = Field(False, description="the first line of eq. 1, KL(synthetic || stored), not its expansion")
    variation: float = Field(0.0, ge=0, description="weight of the total variation (table 1; not given)")
    size: float = Field(0.0, ge=0, description="weight of the images' L2 norm (table 1; not given)")
    precision: Precision = Field("auto", description="of the network's passes; auto: bf16 where the CPU has it")
    seed: int = Field(0, ge=0)


class Recovery(FitConfig):
    """How features are regressed (section 4). The schedule behind the first rate is not given: a cosine."""

    steps: int = Field(500, ge=1, description="of SGD (section 5.1: 500)")
    rate: float = Field(0.01, gt=0, description="of SGD (section 4: 1e-4, section 5.1: 1e-3, for wider networks)")
    decay: float = Field(1e-4, ge=0, description="weight decay (section 4)")
    warmup: float = Field(0.0, ge=0, lt=1)
    batch: int = Field(256, ge=1, description="images a step; those of a larger set are drawn anew each time")
    position: Literal["conv", "norm"] = Field("conv", description="features before or behind BatchNorm (table 2)")
    scope: Literal["tensor", "sample"] = Field("tensor", description="norms of eq. 5 over the batch, or image by image")
    batchnorm: Literal["frozen", "running"] = Field("frozen", description="of the student; not given")
    precision: Precision = "auto"
    seed: int = Field(0, ge=0)


COMPRESSORS: dict[str, type[Sites]] = {"spatial_svd": Factorizer, "magnitude": Pruner}


class FRanDI(Strict):
    """What `datafree.compress` needs to know for this paper: the budget, the search, synthesis and recovery."""

    compressor: Literal["spatial_svd", "magnitude"] = Field(
        "spatial_svd", description="what is chosen for each layer: a rank, or how many weights stay (table 4)"
    )
    reduction: float = Field(4.0, gt=1, description="1 / alpha of eq. 7: how many times less the network may cost")
    budget: Literal["flops", "parameters"] = Field("flops", description="C of eq. 7; masks save parameters only")
    tolerance: float = Field(0.01, gt=0, lt=1, description="Delta alpha of eq. 7; not given")
    lowest: float = Field(0.5, gt=0, description="r_min as a share of alpha; not given")
    highest: float = Field(1.5, gt=0, description="r_max as a share of alpha, one at most; not given")
    candidates: int = Field(500, ge=1, description="draws that fit the budget (section 5.1: 500)")
    branches: int = Field(8, ge=0, description="distinct ranks of the first third of the layers, and for each of them "
                          "of the second; 0: all draws independent, as in the paper")  # fmt: skip
    calibrated: bool = Field(True, description="Output Discrepancy with the statistics of the batch (figure 2b)")
    synthesis: Synthesis = Synthesis()
    recovery: Recovery | None = Recovery()
    precision: Precision = Field("auto", description="of the candidates' passes")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _masks_save_no_operations(self):
        if self.compressor == "magnitude" and self.budget == "flops":
            raise ValueError("pruned weights save no operations; give budget='parameters' with compressor='magnitude'")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """(r_min, r_max) as kept shares of a layer's weights."""
        return self.lowest / self.reduction, min(1.0, self.highest / self.reduction)


# Synthesis (section 3.1) ------------------------------------------------------------------------------------------


def statistics_loss(
    measured: list[bn.Moments], reference: list[bn.Moments], *, literal: bool = False, eps: float = 1e-8
) -> torch.Tensor:
    r"""Divergence of stored from measured statistics, summed over layers and channels (FRanDI, eq. 1).

    .. math:: \sum_{l} \sum_{c} \log\frac{\hat\sigma_{lc}}{\sigma_{lc}}
              - \frac12\Bigl(1 - \frac{\sigma_{lc}^2 + (\mu_{lc} - \hat\mu_{lc})^2}{\hat\sigma_{lc}^2}\Bigr)

    Args:
        measured, reference: (mean, variance) of every layer, [C] each.
        literal: the divergence that the equation's first line names, KL(synthetic || stored); its expansion is the other.
        eps: added to measured variances; the paper has none, and a constant channel would divide by zero.
    Returns:
        a scalar in nats, zero where all statistics agree. Book: {ref}`fr-loss`.
    """
    pairs = zip(measured, reference, strict=True)
    return torch.stack([bn.bns_divergence(*m, *r, reverse=not literal, eps=eps).sum() for m, r in pairs]).sum()


def synthesize(
    model: nn.Module, config: Synthesis, shape: tuple[int, int, int] = (3, 32, 32), progress: bool = False
) -> tuple[data.ImageSet, list[float]]:
    """One batch of images that agree with what BatchNorm stored: no labels, no prior, no task.

    Args:
        model: with BatchNorm; never changed. Its outputs are not looked at.
    Returns:
        the images, in the units of the input and not clipped, and the loss of every step.
    """
    reference = bn.stored(model)

    def loss(x, _outputs, moments):
        value = statistics_loss(moments, reference, literal=config.literal)
        if config.variation:
            value = value + config.variation * total_variation(x)
        return value + config.size * x.flatten(1).norm(dim=1).sum() if config.size else value

    with autocast(uses_bf16(config.precision)):
        images, history = optimise_images(
            model, loss, config.images, shape, config, config.seed, what="synthesis", progress=progress
        )
    return data.generated(images, "FRanDI"), history


# Feature Regression (section 3.2) ---------------------------------------------------------------------------------


def _length(x: torch.Tensor, images: int = 16) -> float:
    """Norm of a map in single precision or better, a few images at a time, so that their wide copy stays in the cache."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.stack([torch.linalg.vector_norm(part, dtype=wide) for part in x.split(images)]).norm().item()


SAME = 1e-12
"""Distance below which two directions count as one: its inverse stays finite."""


class _UnitDistance(torch.autograd.Function):
    """Distance of two tensors on the unit sphere; gradients reach the first one only.

    With u = s/|s|, v = t/|t| and d = |u - v|, the product of u and (u - v) / d is d / 2. So the gradient through the
    normalisation needs no sum of its own: it is (1/d - d/2) (u - v) - d/2 v over |s|. Neither u nor v is made; what is
    kept is |t| (u - v), in the precision of the maps.
    """

    @staticmethod
    def forward(ctx, s, t):
        length, other, t = _length(s), _length(t) or 1.0, t.to(s.dtype)
        difference = (-t).add_(s, alpha=other / length if length else 0.0)
        distance = _length(difference) / other
        ctx.save_for_backward(difference, t)
        ctx.scale, ctx.distance = (1 / (length * other) if length else 0.0), max(distance, SAME)
        return torch.tensor(distance, dtype=torch.promote_types(s.dtype, torch.float32))

    @staticmethod
    def backward(ctx, grad):
        (difference, t), d, scale = ctx.saved_tensors, ctx.distance, grad.item() * ctx.scale
        return (difference * (scale * (1 / d - d / 2))).sub_(t, alpha=scale * d / 2), None


def discrepancy(student: torch.Tensor, teacher: torch.Tensor, scope: str = "tensor") -> torch.Tensor:
    r"""Feature Discrepancy: distance of two maps, each divided by its own norm (FRanDI, eq. 5).

    .. math:: \mathrm{FD}(\tilde F, F) = \left\| \frac{\tilde F}{\|\tilde F\|_2} - \frac{F}{\|F\|_2} \right\|_2

    Args:
        student, teacher: maps of equal shapes [N, ...].
        scope: 'tensor': norms over the whole batch, as written; 'sample': image by image, then the mean.
    Returns:
        a scalar from 0 to 2, with gradients to the student; a map of zeros stays zero. Book: {ref}`fr-discrepancy`.
    """
    if scope == "tensor":
        return _UnitDistance.apply(student, teacher)
    s, t = F.normalize(student.float().flatten(1), dim=1), F.normalize(teacher.float().flatten(1), dim=1)
    return (s - t).norm(dim=1).mean()


def feature_regression(
    student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], distance: Callable = discrepancy
) -> torch.Tensor:
    r"""What recovery minimises: discrepancies of all compressed layers (FRanDI, eq. 4).

    .. math:: \min_{\tilde\theta} \sum_{n=1}^{N} \mathrm{FD}\bigl(\tilde F_n(x; \tilde\theta), F_n(x)\bigr)

    Args:
        student, teacher: outputs of the compressed layers, each network on its own forward pass.
        distance: of two maps; `discrepancy`, or one of those of table 2.
    Returns:
        a scalar. Book: {ref}`fr-regression`.
    """
    return torch.stack([distance(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


def distortion(layer: Callable, compact: torch.Tensor, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    r"""What a layer's output loses with part of its weight, given the same input (FRanDI, eq. 3).

    .. math:: f(W_{\mathrm{compact}}, x) - f(W, x) = -f(W_{\mathrm{redundant}}, x)

    Args:
        layer: f(W, x), linear in W; compact, weight: kernels of one shape.
    Returns:
        the left side. Book: {ref}`fr-split`.
    """
    return layer(compact, x) - layer(weight, x)


class Regression:
    """Student, teacher, images: `draw_loss` is what `fit` minimises. The teacher runs once over all images, where they are few.

    Args:
        layers: names of the compressed convolutions, the same in both networks.
        distance: of two maps; default: Feature Discrepancy.
        watch: called with the number of steps done, before each step.
    """

    KEPT = 1024
    """Images whose features are kept; of larger sets the teacher sees each batch anew, for features fill the memory."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], pool: data.ImageSet, config: Recovery,
        distance: Callable | None = None, watch: Callable[[int], None] | None = None,
    ):  # fmt: skip
        self.student, self.teacher, self.pool, self.config = student, teacher, pool, config
        self.watch, self.done = watch, 0
        self.distance = distance or (lambda s, t: discrepancy(s, t, config.scope))
        self.layers = positions(teacher, layers, config.position)
        self.bf16 = uses_bf16(config.precision)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.wanted = self._features(pool) if len(pool) <= max(self.KEPT, config.batch) else None

    def _features(self, pool: data.ImageSet) -> list[torch.Tensor]:
        """What the teacher makes of images at the layers, in the precision it was computed in."""
        parts = []
        with evaluating(self.teacher), torch.no_grad(), autocast(self.bf16), taps(self.teacher, self.layers) as seen:
            for x, _ in pool.batches(self.config.batch):
                self.teacher(x)
                parts.append(list(seen))
        return [torch.cat(layer) for layer in zip(*parts)]

    def draw_loss(self) -> torch.Tensor:
        if self.watch:
            self.watch(self.done)
        self.done += 1
        whole = len(self.pool) <= self.config.batch
        index = slice(None) if whole else torch.randperm(len(self.pool), generator=self.generator)[: self.config.batch]
        drawn = self.pool[index]
        wanted = [w[index] for w in self.wanted] if self.wanted else self._features(drawn)
        with autocast(self.bf16), taps(self.student, self.layers) as got:
            self.student(drawn.floats())
        return feature_regression(got, wanted, self.distance)

    def run(self, progress: bool = False) -> list[float]:
        """Train the student in place; both networks' modes are as before afterwards."""
        with evaluating(self.student), torch.enable_grad():
            for module in self.student.modules():
                module.training = self.config.batchnorm == "running" and isinstance(module, nn.BatchNorm2d)
            parameters = list(self.student.parameters())
            return fit(parameters, self.draw_loss, self.config, what="feature regression", progress=progress)


def positions(model: nn.Module, layers: Sequence[str], position: str) -> tuple[str, ...]:
    """Where features are taken: at the convolutions, or at the BatchNorm that reads each of them (table 2)."""
    if position == "conv":
        return tuple(layers)
    graph = trace(model)
    norms = [graph.layer(name).norm for name in layers]
    if None in norms:
        raise DataFreeError(
            f"no BatchNorm reads '{layers[norms.index(None)]}' alone; give position='conv' for this network."
        )
    return tuple(norms)


# Selection (section 3.3) ------------------------------------------------------------------------------------------


def output_discrepancy(student: torch.Tensor, teacher: torch.Tensor, scope: str = "tensor") -> torch.Tensor:
    r"""Score of a compressed network that needs no label (FRanDI, eq. 6).

    .. math:: \mathrm{OD}(\tilde F, F) = \left\| \frac{\tilde F(x)}{\|\tilde F(x)\|_2} - \frac{F(x)}{\|F(x)\|_2} \right\|_2

    Args:
        student, teacher: outputs of the networks on the same images, [N, ...].
    Returns:
        a scalar from 0 to 2, lower is better. Book: {ref}`fr-od`.
    """
    return discrepancy(student, teacher, scope)


def within_budget(cost: torch.Tensor, dense: float, config: FRanDI) -> torch.Tensor:
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

    def __init__(self, factors: Sites, config: FRanDI):
        self.config, self.sites = config, list(factors.sites.values())
        self.generator = torch.Generator().manual_seed(config.seed)
        flops = config.budget == "flops"
        self.dense = factors.dense_macs if flops else factors.dense_parameters
        saved = sum(s.macs if flops else s.weights for s in self.sites)
        self.rest = self.dense - saved
        self.slopes = torch.tensor(
            [s.macs_per_rank if flops else s.weights_per_rank for s in self.sites], dtype=torch.float64
        )
        self.unit = torch.tensor([s.weights / s.weights_per_rank for s in self.sites], dtype=torch.float64)
        self.full = torch.tensor([s.full_rank for s in self.sites], dtype=torch.float64)

    def draw(self) -> torch.Tensor:
        """Ranks [DRAWS, layers] whose kept shares are uniform in [r_min, r_max]."""
        low, high = self.config.range
        share = torch.rand(self.DRAWS, len(self.sites), generator=self.generator, dtype=torch.float64)
        return torch.minimum(((low + (high - low) * share) * self.unit).round().clamp_min(1), self.full)

    def complete(self, row: torch.Tensor | None = None, keep: int = 0) -> torch.Tensor:
        """Ranks that fit the budget; the first `keep` are those of `row`, which comes back where no draw fits."""
        for _ in range(self.ROUNDS):
            drawn = self.draw()
            if row is not None:
                drawn[:, :keep] = row[:keep]
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
        count, branches, layers = self.config.candidates, self.config.branches, len(self.sites)
        roots: list[torch.Tensor | None] = [None]
        keep = 0
        for end in (layers // 3, 2 * layers // 3) if branches else ():
            roots = [self.complete(root, keep) for root in roots for _ in range(branches)]
            keep = end
        drawn = [self.complete(roots[i % len(roots)], keep) for i in range(count)]
        return [tuple(int(rank) for rank in row) for row in drawn]


@torch.no_grad()
def discrepancies(
    factors: Sites, rows: Rows, pool: data.ImageSet, *, calibrated: bool = False, precision: str = "auto"
) -> list[float]:
    """Output Discrepancy of each set of ranks on `pool`; the dense network's outputs are computed once.

    Args:
        calibrated: with BatchNorm's statistics from the same images (figure 2b), else with the stored ones (2a).
    """
    half = uses_bf16(precision)
    wanted = outputs(factors.model, pool, bf16=half)
    many = Candidates(factors, calibrated=calibrated, bf16=half)
    return many.scores(pool, rows, lambda z: output_discrepancy(z, wanted).item())


class Found(NamedTuple):
    """What a search saw: the best ranks by layer, all sets that fitted the budget, and their scores."""

    ranks: dict[str, int]
    rows: list[tuple[int, ...]]
    scores: list[float]


def search(factors: Sites, pool: data.ImageSet, config: FRanDI) -> Found:
    """The candidate of lowest Output Discrepancy among random ones that fit the budget (section 3.3)."""
    rows = Sampler(factors, config).rows()
    scores = discrepancies(factors, rows, pool, calibrated=config.calibrated, precision=config.precision)
    if not all(map(math.isfinite, scores)):
        raise DataFreeError("the Output Discrepancy of a candidate is NaN; check the network's weights and the images.")
    best = min(range(len(rows)), key=scores.__getitem__)
    return Found(dict(zip(factors.sites, rows[best])), rows, scores)


def compress(
    model: nn.Module, config: FRanDI, pool: data.ImageSet | None, shape: tuple[int, int, int]
) -> tuple[nn.Module, dict]:
    """Search, compress, calibrate BatchNorm, regress features; all on one set of synthetic images."""
    factors = COMPRESSORS[config.compressor](model, shape)
    report: dict = {"images": "given"}
    if pool is None:
        pool, history = synthesize(model, config.synthesis, shape)
        report = {"images": pool.name, "synthesis_loss": history[-1]}
    found = search(factors, pool, config)
    student = factors.network(found.ranks)
    if any(isinstance(m, nn.BatchNorm2d) for m in student.modules()):
        bn.recalibrate(student, pool)
    report |= {"ranks": found.ranks, "kept_parameters": factors.parameters(found.ranks)}
    report |= {"output_discrepancy": min(found.scores), "candidates": len(found.rows)}
    if config.recovery:
        with factors.held(student, found.ranks):
            report["regression_loss"] = Regression(student, model, list(found.ranks), pool, config.recovery).run()[-1]
    return student, report
