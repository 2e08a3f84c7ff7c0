"""Deep Inversion (Yin et al., 2020): images that a network takes for members of its classes, then a student that learns from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..core import batchnorm
from ..core.distillation import Batches, Extra, output_divergence, train_student
from ..core.image_optimization import ImageConfig, Shape, images_from_noise, total_variation
from ..core.metrics import count_classes
from ..core.optimization import FitConfig
from ..data.images import ImageSet, generated


class InversionConfig(ImageConfig):
    """How Deep Inversion makes its images; defaults are those of Yin et al. (2020) for CIFAR-10, where they are given."""

    steps: int = Field(2000, ge=1, description="of Adam on a batch of images")
    rate: float = Field(0.05, gt=0, description="peak rate of Adam, in deviations of the input")
    momentum: float = Field(0.5, ge=0, lt=1)
    batch: int = Field(256, ge=2, description="images optimised together; BatchNorm's statistics are theirs")
    statistics: float = Field(1.0, ge=0, description="weight of the BatchNorm term (given: 1 to 100)")
    variation: float = Field(2.5e-5, ge=0, description="weight of the total variation")
    size: float = Field(3e-8, ge=0, description="weight of the images' L2 norm")


def statistics_distance(measured: list[batchnorm.Moments], reference: list[batchnorm.Moments]) -> torch.Tensor:
    r"""How far BatchNorm's inputs are from what it stored (Yin et al., 2020, eq. 4).

    .. math:: \sum_l \|\hat\mu_l - \mu_l\|_2 + \|\hat\sigma^2_l - \sigma^2_l\|_2

    Args:
        measured, reference: (mean, variance) of every layer, [C] each.
    Returns:
        a scalar, zero where all agree.
    """
    return torch.stack([(a - b).norm() for m, r in zip(measured, reference) for a, b in zip(m, r)]).sum()


def invert(
    teacher: nn.Module, config: InversionConfig, count: int, shape: Shape = (3, 32, 32), progress: bool = False
) -> tuple[ImageSet, list[float]]:
    r"""Images that a network would take for members of given classes (Deep Inversion, Yin et al., 2020, section 3.2).

    .. math:: \mathcal L_{\mathrm{CE}}(f(x), y) + \alpha_{\mathrm{BN}} \mathcal R_{\mathrm{BN}}
              + \alpha_{\mathrm{TV}} \mathcal R_{\mathrm{TV}} + \alpha_{\ell_2} \|x\|_2

    Args:
        teacher: with its BatchNorm layers; never changed.
        count: images to make, batch by batch.
    Returns:
        the images in [0, 1] with the classes aimed at, and the loss of every step.
    """
    reference, generator = batchnorm.stored(teacher), torch.Generator().manual_seed(config.seed)
    classes = count_classes(teacher, shape)
    made, labels, history = [], [], []
    while sum(map(len, made)) < count:
        targets = torch.randint(0, classes, (config.batch,), generator=generator, device="cpu").to(
            reference[0].mean.device
        )

        def loss(x, logits, moments, targets=targets):
            prior = config.variation * total_variation(x) + config.size * x.norm()
            statistics = config.statistics * statistics_distance(moments, reference)
            return F.cross_entropy(logits, targets) + statistics + prior

        images, losses = images_from_noise(
            teacher, loss, config.batch, shape, config, config.seed * 1000 + len(made), what="Deep Inversion", progress=progress
        )  # fmt: skip
        made.append(images.clamp(0, 1))
        labels.append(targets)
        history += losses
    return generated(torch.cat(made)[:count], "DI", torch.cat(labels)[:count], classes), history


def distill_inverted(
    student: nn.Module, teacher: nn.Module, images: ImageSet, config: FitConfig, *, batch: int = 64, seed: int = 0,
    extra: Extra | None = None, progress: bool = False,
) -> list[float]:  # fmt: skip
    """Train `student` in place towards the outputs of `teacher` on inverted images; the second half of Deep Inversion.

    Args:
        config: length and rate of the training.
        batch, seed: images are drawn with replacement, cropped and mirrored at random.
        extra: one more loss of the student, added in every step.
    Returns:
        the loss of every step.
    """

    def loss(x: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = teacher(x)
        return output_divergence(student(x), target)

    draw = Batches(images, batch, seed=seed, augment=True)
    return train_student(
        student, loss, config, draw=draw, teacher=teacher, extra=extra, what="distillation", progress=progress
    )
