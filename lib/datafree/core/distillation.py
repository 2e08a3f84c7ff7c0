"""Teach a compressed network by its original: losses on outputs and features, and the one training loop for all of it.

The loop (`fit`) knows nothing of networks: it takes parameters and a function that draws a loss. Distillation,
feature regression and the baselines differ in that function only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..data.images import ImageSet, random_crop_and_mirror
from ..errors import DataFreeError
from .hooks import evaluating, stages, taps
from .optimization import FitConfig, fit
from .precision import Precision, autocast, uses_bf16


def output_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    r"""KL divergence of the student's outputs from the teacher's (The Knowledge Within, section 4.2).

    .. math:: \frac{T^2}{N} \sum_i \sum_k p_{ik} \log\frac{p_{ik}}{q_{ik}}, \qquad
              p = \mathrm{softmax}(z^{\text{teacher}} / T), \; q = \mathrm{softmax}(z^{\text{student}} / T)

    Args:
        student, teacher: logits [N, K].
        temperature: T; not given in the paper.
    Returns:
        a scalar in nats, never negative. Book: {ref}`kw-kd`.
    """
    q = F.log_softmax(student.float() / temperature, dim=1)
    p = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def feature_distance(student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
    r"""Smooth L1 of features, averaged over their values and over the taps (The Knowledge Within, section 4.2, IQ loss).

    .. math:: \frac1S \sum_{s} \mathrm{mean}\,h\bigl(f_s^{\text{student}} - f_s^{\text{teacher}}\bigr), \qquad
              h(d) = \begin{cases} d^2 / 2 & |d| < 1 \\ |d| - 1/2 & \text{else} \end{cases}

    Args:
        student, teacher: one tensor a tap, of equal shapes.
    Returns:
        a scalar, in units of the features. Book: {ref}`kw-iq`.
    """
    return torch.stack([F.smooth_l1_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True)]).mean()


def mix(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    r"""Every image blended with another of its batch (The Knowledge Within, section 4.2, in the manner of mixup).

    .. math:: x_i' = \lambda_i x_i + (1 - \lambda_i)\, x_{\pi(i)}, \qquad \lambda_i \sim U(0, 1)

    Args:
        images: [N, C, H, W]; the law of lambda is not given in the paper. Book: {ref}`kw-mix`.
    """
    share = torch.rand(len(images), 1, 1, 1, generator=generator)
    other = torch.randperm(len(images), generator=generator)
    return torch.lerp(images[other], images, share).contiguous(memory_format=torch.channels_last)


class DistillConfig(FitConfig):
    """How a student learns from its teacher; defaults are The Knowledge Within's (section 4.2) where it gives a value."""

    batch: int = Field(512, ge=2, description="images drawn with replacement a step")
    objective: Literal["kl", "cross_entropy"] = Field("kl", description="teacher's outputs, or the labels alone")
    temperature: float = Field(4.0, gt=0, description="of both softmaxes (not given)")
    features: float = Field(0.001, ge=0, description="weight of the IQ loss (section 4.2)")
    mixing: bool = Field(True, description="in-batch mixing of the inputs (section 4.2)")
    augment: bool = Field(True, description="random crop and mirror of every drawn batch (section 4.2)")
    batchnorm: Literal["frozen", "running"] = Field("frozen", description="evaluation mode, or adapting to the images")
    precision: Precision = Field("auto", description="of the networks' passes")
    seed: int = Field(0, ge=0)


class Distiller:
    """One student, one teacher, one pool of images; `draw_loss` is what `fit` minimises."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, pool: ImageSet, config: DistillConfig,
        extra: Callable[[], torch.Tensor] | None = None,
    ):  # fmt: skip
        self.student, self.teacher, self.pool, self.config, self.extra = student, teacher, pool, config, extra
        self.generator = torch.Generator().manual_seed(config.seed)
        self.bf16 = uses_bf16(config.precision)
        self.taps = stages(teacher, tuple(pool[:1].pixels.shape[1:])) if config.features else ()
        self._check()

    def _check(self) -> None:
        config, pool = self.config, self.pool
        if config.objective == "cross_entropy" and (pool.labels < 0).any():
            raise DataFreeError(f"'{pool.name}' has no labels; cross entropy needs them, distillation (kl) does not.")
        if config.objective == "cross_entropy" and config.mixing:
            raise DataFreeError("mixed images have no single label; set mixing=False with cross entropy.")

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented, then mixed images, and the labels they had."""
        index = torch.randint(0, len(self.pool), (self.config.batch,), generator=self.generator)
        drawn = self.pool[index]
        x = drawn.floats()
        x = random_crop_and_mirror(x, self.generator) if self.config.augment else x
        x = mix(x, self.generator) if self.config.mixing else x
        return x.contiguous(memory_format=torch.channels_last), drawn.labels

    def draw_loss(self) -> torch.Tensor:
        config, (x, y) = self.config, self.batch()
        with taps(self.teacher, self.taps) as wanted, taps(self.student, self.taps) as got, autocast(self.bf16):
            if config.objective == "kl" or self.taps:
                with torch.no_grad():
                    target = self.teacher(x)
            logits = self.student(x)
        if config.objective == "kl":
            loss = output_divergence(logits, target, config.temperature)
        else:
            loss = F.cross_entropy(logits.float(), y)
        loss = loss + config.features * feature_distance(got, wanted) if self.taps else loss
        return loss + self.extra() if self.extra else loss

    def run(self, progress: bool = True) -> list[float]:
        """Train the student in place; teacher and modes are as before afterwards."""
        with evaluating(self.student), evaluating(self.teacher):
            if self.config.batchnorm == "running":
                for module in self.student.modules():
                    module.training = isinstance(module, nn.BatchNorm2d)
            return fit(
                list(self.student.parameters()), self.draw_loss, self.config, what="distillation", progress=progress
            )


def distill(
    student: nn.Module, teacher: nn.Module, pool: ImageSet, config: DistillConfig, progress: bool = True, *,
    extra: Callable[[], torch.Tensor] | None = None,
) -> list[float]:  # fmt: skip
    """Train `student` in place on `pool` towards `teacher`; returns the loss of every step.

    extra: draws one more loss of the student, a scalar that is added in every step.
    Activation ranges stay as calibrated. Weight ranges follow the weights unless `quantized.freeze_weight_ranges` was called.
    """
    return Distiller(student, teacher, pool, config, extra).run(progress)


Extra = Callable[[], torch.Tensor]
"""Draws one more loss of the student, a scalar that is added in every step."""
