"""FRanDI, section 3.1: images that agree with what BatchNorm stored (eq. 1)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ...config import Precision
from ...core import batchnorm
from ...core.image_optimization import images_from_noise, total_variation
from ...core.metrics import count_classes
from ...core.optimization import FitConfig
from ...core.precision import uses_bf16
from ...data.images import ImageSet, generated


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


def statistics_loss(
    measured: list[batchnorm.Moments], reference: list[batchnorm.Moments], *, literal: bool = False, eps: float = 1e-8
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
    channels = batchnorm.side_by_side(measured, reference)
    return batchnorm.bns_divergence(*channels, reverse=not literal, eps=eps).sum()


def synthesize(
    model: nn.Module, config: Synthesis, shape: tuple[int, int, int] = (3, 32, 32), progress: bool = False
) -> tuple[ImageSet, list[float]]:
    """One batch of images that agree with what BatchNorm stored: no labels, no prior, no task (FRanDI, section 3.1).

    Args:
        model: with BatchNorm; never changed. Its outputs are counted, for the names of the classes, and not looked at.
    Returns:
        the images, in the units of the input and not clipped, and the loss of every step.
    """
    reference = batchnorm.stored(model)

    def loss(x, _outputs, moments):
        value = statistics_loss(moments, reference, literal=config.literal)
        if config.variation:
            value = value + config.variation * total_variation(x)
        return value + config.size * x.flatten(1).norm(dim=1).sum() if config.size else value

    images, history = images_from_noise(
        model, loss, config.images, shape, config, config.seed, what="synthesis", bf16=uses_bf16(config.precision, reference[0].mean.device),
        progress=progress,
    )  # fmt: skip
    return generated(images, "FRanDI", classes=count_classes(model, shape)), history
