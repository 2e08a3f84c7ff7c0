"""FRanDI, section 3.2: Feature Regression (eqs. 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ...core.graph import trace
from ...core.hooks import evaluating, taps
from ...core.optimization import FitConfig, fit
from ...core.precision import Precision, autocast, uses_bf16
from ...data.images import ImageSet
from ...errors import DataFreeError


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
        self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], pool: ImageSet, config: Recovery,
        distance: Callable | None = None, watch: Callable[[int], None] | None = None,
    ):  # fmt: skip
        self.student, self.teacher, self.pool, self.config = student, teacher, pool, config
        self.watch, self.done = watch, 0
        self.distance = distance or (lambda s, t: discrepancy(s, t, config.scope))
        self.layers = positions(teacher, layers, config.position)
        self.bf16 = uses_bf16(config.precision)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.wanted = self._features(pool) if len(pool) <= max(self.KEPT, config.batch) else None

    def _features(self, pool: ImageSet) -> list[torch.Tensor]:
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
