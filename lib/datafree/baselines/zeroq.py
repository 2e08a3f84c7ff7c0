"""ZeroQ (Cai et al., 2020): images whose statistics agree with BatchNorm's. Ranges are the extremes on them (`MinMaxObserver`)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ..core import batchnorm
from ..core.image_optimization import ImageConfig, images_from_noise
from ..core.metrics import count_classes
from ..data.images import ImageSet, generated
from ..networks.blocks import normalization


class ZeroQConfig(ImageConfig):
    """How the distilled data are made; defaults are those of the authors' code."""

    steps: int = Field(500, ge=1, description="of Adam")
    rate: float = Field(0.5, gt=0, description="peak rate, in deviations of the input")


def distance(measured: list[batchnorm.Moments], reference: list[batchnorm.Moments]) -> torch.Tensor:
    r"""How far means and standard deviations are from those stored (ZeroQ, Cai et al., 2020, eq. 3).

    .. math:: \sum_i \|\tilde\mu_i - \mu_i\|_2^2 + \|\tilde\sigma_i - \sigma_i\|_2^2

    Each layer's squared norms are divided by its number of channels, as in the authors' code.

    Args:
        measured, reference: (mean, variance) of every layer, [C] each.
    Returns:
        a scalar, zero where all agree.
    """
    return len(reference) * batchnorm.mean_divergence(measured, reference, batchnorm.moment_mse)


def distilled_images(
    model: nn.Module, config: ZeroQConfig | None = None, shape: tuple[int, int, int] = (3, 32, 32), progress: bool = False
) -> tuple[ImageSet, list[float]]:  # fmt: skip
    """One batch of images from normal noise (ZeroQ, Cai et al., 2020, algorithm 1), and the loss of every step.

    The network's input counts as one more layer with mean zero and deviation one after normalisation.

    Args:
        model: with its BatchNorm layers; never changed. shape: of one image.
    """
    config = config or ZeroQConfig()
    mean, std = normalization(model)
    # the normalised input is one more layer, with mean zero and deviation one
    reference = [*batchnorm.stored(model), batchnorm.Moments(torch.zeros_like(mean), torch.ones_like(std))]

    def loss(x, _logits, moments):
        # moments of the normalised input, z = (x - mean) / std
        z_mean, z_var = (x.mean((0, 2, 3)) - mean) / std, x.var((0, 2, 3), unbiased=False) / std.square()
        return distance([*moments, batchnorm.Moments(z_mean, z_var)], reference)

    images, history = images_from_noise(
        model, loss, config.batch, shape, config, config.seed, what="ZeroQ's distillation", progress=progress
    )
    return generated(images, "ZeroQ", classes=count_classes(model, shape)), history
