"""The one loop that optimises images: by gradients through a whole network, from normal noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ..networks.blocks import normalization
from . import batchnorm
from .optimization import FitConfig, fit

Shape = tuple[int, int, int]


def unnormalize(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Values in deviations from the mean as images in the units of the network's input; not clipped."""
    mean, std = (v.view(1, -1, 1, 1) for v in normalization(model))
    return torch.addcmul(mean, x, std).contiguous(memory_format=torch.channels_last)


class ImageConfig(FitConfig):
    """An optimisation of images: by Adam, some of them together."""

    optimizer: Literal["sgd", "adam"] = "adam"
    batch: int = Field(64, ge=2, description="images optimised together")
    seed: int = Field(0, ge=0)


def optimize_images(
    model: nn.Module, loss: Callable, count: int, shape: Shape, config: FitConfig, seed: int, *, what: str,
    progress: bool = False,
) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
    """`count` images that start as normal noise and minimise `loss` by gradients through the whole network.

    Args:
        model: with BatchNorm; never changed.
        loss: (images [N, C, H, W], logits, moments of every BatchNorm input) -> scalar.
        seed: of the noise. what: a word for the error, where the loss becomes NaN.
    Returns:
        the images, in the units of the network's input and not clipped, and the loss of every step.
    """
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    with batchnorm.capture(model) as seen:

        def draw_loss() -> torch.Tensor:
            x = unnormalize(noise, model)
            logits = model(x)
            return loss(x, logits, seen.moments)

        history = fit([noise], draw_loss, config, what=what, progress=progress)
    return unnormalize(noise.detach(), model), history


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """L2 norms of the differences of pixels to their neighbours: right, below, and on both diagonals."""
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling, rising = images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]
    return sum(difference.norm() for difference in (right, below, falling, rising))
