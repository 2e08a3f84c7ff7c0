"""The one loop that optimises images: by gradients through a whole network.

    optimize_images(model, images, loss, config)     from any start, through any view of it
    images_from_noise(model, loss, count, ...)       from normal noise, in deviations of the network's input

The network is never changed; what differs from method to method is the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ..networks.blocks import normalization
from . import batchnorm
from .folding import plan
from .hooks import device_of
from .optimization import FitConfig, fit
from .precision import autocast

Shape = tuple[int, int, int]

Loss = Callable[[torch.Tensor, torch.Tensor, list[batchnorm.Moments]], torch.Tensor]
"""(what the network saw [N, C, H, W], its outputs, the moments of every BatchNorm input) -> scalar."""


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
    model: nn.Module, images: torch.Tensor, loss: Loss, config: FitConfig, *,
    view: Callable[[torch.Tensor], torch.Tensor] | None = None, bf16: bool = False,
    before: Callable[[int], None] | None = None, what: str = "synthesis", progress: bool = False,
) -> list[float]:  # fmt: skip
    """Change `images` in place until they minimise `loss`, by gradients through the whole network.

    Args:
        model: with BatchNorm; never changed.
        images: a leaf that requires gradients, in any units.
        view: what the network sees of them, differentiable: augmented copies, say; default: the images themselves.
        bf16: the network's pass in that precision; images, moments and loss stay in single precision.
        before, what: as in `fit`.
    Returns:
        the loss of every step.
    """
    with batchnorm.capture(model, *plan(model)) as seen:

        def draw_loss() -> torch.Tensor:
            x = view(images) if view else images
            with autocast(bf16):
                outputs = model(x)
            return loss(x, outputs, seen.moments)

        return fit([images], draw_loss, config, before=before, what=what, progress=progress)


def images_from_noise(
    model: nn.Module, loss: Loss, count: int, shape: Shape, config: FitConfig, seed: int, *, what: str,
    bf16: bool = False, progress: bool = False,
) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
    """`count` images that start as normal noise and minimise `loss`; what is optimised is in deviations of the input.

    Args:
        seed: of the noise. what: a word for the error, where the loss becomes NaN.
    Returns:
        the images, in the units of the network's input and not clipped, and the loss of every step.
    """
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), device="cpu")
    noise = noise.to(device_of(model)).requires_grad_()
    history = optimize_images(
        model, noise, loss, config, view=lambda x: unnormalize(x, model), bf16=bf16, what=what, progress=progress
    )
    return unnormalize(noise.detach(), model), history


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """L2 norms of the differences of pixels to their neighbours: right, below, and on both diagonals."""
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling, rising = images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]
    return sum(difference.norm() for difference in (right, below, falling, rising))
