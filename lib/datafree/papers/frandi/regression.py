"""FRanDI, section 3.2: Feature Regression (eqs. 3 to 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ...core.distillation import Batches, StudentConfig, train_student
from ...core.graph import trace
from ...core.hooks import device_of, evaluating, feature_hooks
from ...core.precision import autocast, uses_bf16
from ...data.images import ImageSet
from ...errors import DataFreeError


class Recovery(StudentConfig):
    """How features are regressed (section 4). The schedule is not given: a warm-up and a cosine."""

    steps: int = Field(500, ge=1, description="of SGD (section 5.1: 500)")
    rate: float = Field(
        0.003, gt=0, description="highest, of SGD (section 4: 1e-4, section 5.1: 1e-3, for wider networks)"
    )
    decay: float = Field(1e-4, ge=0, description="weight decay (section 4)")
    warmup: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the steps with a rising rate (not given); without it accuracy falls first",
    )
    batch: int = Field(256, ge=1, description="images a step; those of a larger set are drawn anew each time")
    position: Literal["conv", "norm"] = Field("conv", description="features before or behind BatchNorm (table 2)")
    scope: Literal["tensor", "sample"] = Field("tensor", description="norms of eq. 5 over the batch, or image by image")
    batchnorm: Literal["frozen", "running"] = Field("frozen", description="of the student; not given")


# Feature Regression (section 3.2) ---------------------------------------------------------------------------------


def discrepancy(student: torch.Tensor, teacher: torch.Tensor, scope: str = "tensor") -> torch.Tensor:
    r"""Feature Discrepancy: distance of two maps, each divided by its own norm (FRanDI, eq. 5).

    .. math:: \mathrm{FD}(\tilde F, F) = \left\| \frac{\tilde F}{\|\tilde F\|_2} - \frac{F}{\|F\|_2} \right\|_2

    Args:
        student, teacher: maps of equal shapes [N, ...].
        scope: 'tensor': norms over the whole batch, as written; 'sample': image by image, then the mean.
    Returns:
        a scalar from 0 to 2; a map of zeros stays zero. Book: {ref}`fr-discrepancy`.
    """
    maps = [z.to(torch.promote_types(z.dtype, torch.float32)) for z in (student, teacher)]
    rows = [z.flatten(1) if scope == "sample" else z.flatten()[None] for z in maps]  # one row for each norm
    s, t = (F.normalize(row, dim=1) for row in rows)
    return (s - t).norm(dim=1).mean()


def _length(x: torch.Tensor, images: int = 16) -> float:
    """Norm of a map in single precision or better, a few images at a time, so that their wide copy stays in the cache."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.stack([torch.linalg.vector_norm(part, dtype=wide) for part in x.split(images)]).norm().item()


SAME = 1e-12
"""Distance below which two directions count as one: its inverse stays finite."""


class _UnitDistance(torch.autograd.Function):
    """Distance of two tensors on the unit sphere; see `fast_discrepancy`.

    With u = s/|s|, v = t/|t| and d = |u - v|, the product of u and (u - v) / d is d / 2. So the gradient through the
    normalisation needs no sum of its own: it is (1/d - d/2) (u - v) - d/2 v over |s|. Neither u nor v is made; what is
    kept is |t| (u - v), in the precision of the maps.
    """

    @staticmethod
    def forward(ctx, s, t):
        length, other, t = _length(s), _length(t) or 1.0, t.to(s.dtype)  # |s|, |t|
        difference = (-t).add_(s, alpha=other / length if length else 0.0)  # |t| (u - v)
        distance = _length(difference) / other
        ctx.save_for_backward(difference, t)
        ctx.scale, ctx.distance = (1 / (length * other) if length else 0.0), max(distance, SAME)
        return torch.tensor(distance, dtype=torch.promote_types(s.dtype, torch.float32), device=s.device)

    @staticmethod
    def backward(ctx, grad):
        (difference, t), d, scale = ctx.saved_tensors, ctx.distance, grad.item() * ctx.scale
        return (difference * (scale * (1 / d - d / 2))).sub_(t, alpha=scale * d / 2), None


def fast_discrepancy(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """`discrepancy` over the whole batch, with a gradient written by hand; it reaches the student only.

    Several times faster, and no map is copied in single precision. This is what `Regression` minimises.
    """
    return _UnitDistance.apply(student, teacher)


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
    """Student, teacher, images: the batches, and the loss that `train_student` minimises.

    The teacher runs once over all images, where they are few.

    Args:
        layers: names of the compressed convolutions, the same in both networks.
        distance: of two maps; default: Feature Discrepancy.
        watch: called with the number of steps done, before each step.
    """

    KEPT = 1024
    """Images whose features are kept; of larger sets the teacher sees each batch anew, for features fill the memory."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], images: ImageSet, config: Recovery,
        distance: Callable | None = None, watch: Callable[[int], None] | None = None,
    ):  # fmt: skip
        self.student, self.teacher, self.images, self.config, self.watch = student, teacher, images, config, watch
        self.distance = distance or (
            fast_discrepancy if config.scope == "tensor" else partial(discrepancy, scope="sample")
        )
        self.layers = positions(teacher, layers, config.position)
        self.bf16 = uses_bf16(config.precision, device_of(teacher))
        self.batches = Batches(images, config.batch, seed=config.seed, replacement=False)
        self.wanted = self._features(images) if len(images) <= max(self.KEPT, config.batch) else None

    @torch.no_grad()
    def _features(self, images: ImageSet) -> list[torch.Tensor]:
        """What the teacher makes of images at the layers, in the precision it was computed in."""
        parts = []
        with evaluating(self.teacher), autocast(self.bf16), feature_hooks(self.teacher, self.layers) as seen:
            for x, _ in images.batches(self.config.batch):
                self.teacher(x)
                parts.append(list(seen))
        return [torch.cat(layer) for layer in zip(*parts)]

    def draw(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Images, and the teacher's features of them."""
        index = self.batches.index()
        drawn = self.images[index]
        return drawn.floats(), [w[index] for w in self.wanted] if self.wanted else self._features(drawn)

    def loss(self, x: torch.Tensor, wanted: list[torch.Tensor]) -> torch.Tensor:
        """Eq. 4, with the student's own forward pass."""
        with autocast(self.bf16), feature_hooks(self.student, self.layers) as got:
            self.student(x)
        return feature_regression(got, wanted, self.distance)

    def run(self, progress: bool = False) -> list[float]:
        """Train the student in place; returns the loss of every step."""
        return train_student(
            self.student, self.loss, self.config, draw=self.draw, watch=self.watch,
            batchnorm=self.config.batchnorm, what="feature regression", progress=progress,
        )  # fmt: skip


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
