"""The Knowledge Within, section 4.2: a quantised student learns from the float network, on generated images.

The divergence of the outputs and the loop are in `datafree.core.distillation`, for others need them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ...core.distillation import Batches, BatchNormMode, StudentConfig, output_divergence, train_student
from ...core.hooks import device_of, feature_hooks, stages
from ...core.precision import autocast, uses_bf16
from ...data.images import ImageSet
from ...errors import DataFreeError


def feature_distance(
    student: list[torch.Tensor], teacher: list[torch.Tensor], reduction: Literal["sum", "mean"] = "sum"
) -> torch.Tensor:
    r"""Smooth L1 of features, averaged over images and layers (The Knowledge Within, section 4.2, IQ loss).

    .. math:: \frac1S \sum_{s} \frac1N \sum_{i, j} h\bigl(f_{s,ij}^{\text{student}} - f_{s,ij}^{\text{teacher}}\bigr), \qquad
              h(d) = \begin{cases} d^2 / 2 & |d| < 1 \\ |d| - 1/2 & \text{else} \end{cases}

    Args:
        student, teacher: one tensor a layer, of equal shapes; i counts images, j the values of one image.
        reduction: over j; the paper does not say which, and a mean makes its weight of 0.001 do nothing.
    Returns:
        a scalar, in units of the features. Book: {ref}`kw-iq`.
    """
    layers = [
        F.smooth_l1_loss(s.float(), t.float(), reduction=reduction) for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(layers).mean() / (len(student[0]) if reduction == "sum" else 1)


def mix(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    r"""Every image blended with another of its batch (The Knowledge Within, section 4.2, in the manner of mixup).

    .. math:: x_i' = \lambda_i x_i + (1 - \lambda_i)\, x_{\pi(i)}, \qquad \lambda_i \sim U(0, 1)

    Args:
        images: [N, C, H, W]; the law of lambda is not given in the paper. Book: {ref}`kw-mix`.
    """
    share = torch.rand(len(images), 1, 1, 1, generator=generator, device=generator.device).to(images.device)  # lambda_i
    other = torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)  # pi
    return torch.lerp(images[other], images, share).contiguous(memory_format=torch.channels_last)


class DistillConfig(StudentConfig):
    """How a student learns from its teacher; the defaults are those of section 4.2 where it gives a value."""

    batch: int = Field(512, ge=2, description="images drawn with replacement a step")
    objective: Literal["kl", "cross_entropy"] = Field("kl", description="teacher's outputs, or the labels alone")
    temperature: float = Field(4.0, gt=0, description="of both softmaxes (not given)")
    features: float = Field(0.001, ge=0, description="weight of the IQ loss (section 4.2)")
    reduction: Literal["sum", "mean"] = Field(
        "sum", description="of the IQ loss over the values of an image (not given)"
    )
    batchnorm: BatchNormMode = Field("running", description="of the student; on noise it must be frozen (section 3.1)")
    mixing: bool = Field(True, description="in-batch mixing of the inputs (section 4.2)")
    augment: bool = Field(True, description="random crop and mirror of every drawn batch (section 4.2)")


class Distillation:
    """One student, one teacher, one set of images: the batches, and the loss that `train_student` minimises."""

    def __init__(self, student: nn.Module, teacher: nn.Module, images: ImageSet, config: DistillConfig):
        self.student, self.teacher, self.config = student, teacher, config
        self.batches = Batches(images, config.batch, seed=config.seed, augment=config.augment)
        self.bf16 = uses_bf16(config.precision, device_of(teacher))
        self.stages = stages(teacher, tuple(images.pixels.shape[1:])) if config.features else ()
        if config.objective == "cross_entropy" and (images.labels < 0).any():
            raise DataFreeError(f"'{images.name}' has no labels; cross entropy needs them, distillation (kl) does not.")
        if config.objective == "cross_entropy" and config.mixing:
            raise DataFreeError("mixed images have no single label; set mixing=False with cross entropy.")

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented, then mixed images, and the labels they had."""
        x, labels = self.batches()
        return mix(x, self.batches.generator) if self.config.mixing else x, labels

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Distance of the outputs, or cross entropy, and the IQ loss of the stages."""
        config, teacher, student = self.config, self.teacher, self.student
        with (
            autocast(self.bf16),
            feature_hooks(teacher, self.stages) as wanted,
            feature_hooks(student, self.stages) as got,
        ):
            if config.objective == "kl" or self.stages:
                with torch.no_grad():
                    target = teacher(x)
            logits = student(x)
        if config.objective == "kl":
            value = output_divergence(logits, target, config.temperature)
        else:
            value = F.cross_entropy(logits.float(), labels)
        return value + config.features * feature_distance(got, wanted, config.reduction) if self.stages else value


def distill(
    student: nn.Module, teacher: nn.Module, images: ImageSet, config: DistillConfig, progress: bool = True, *,
    watch: Callable[[int], None] | None = None,
) -> list[float]:  # fmt: skip
    """Train `student` in place on `images` towards `teacher`; returns the loss of every step.

    watch: called with the number of steps done, before each step.
    Activation ranges stay as calibrated. Weight ranges follow the weights unless they are held.
    """
    work = Distillation(student, teacher, images, config)
    return train_student(
        student, work.loss, config, draw=work.draw, teacher=teacher, batchnorm=config.batchnorm, watch=watch,
        what="distillation", progress=progress, looked_at=work.stages,
    )  # fmt: skip
