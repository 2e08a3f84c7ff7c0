"""Damage to images: noise, blur and compression, at the severities of the usual robustness benchmark."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from .. import torchvision_shim
from ..errors import DataFreeError
from .images import ImageSet

SEVERITIES = {
    "noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "jpeg": (80, 65, 58, 50, 40),
}
"""Severities 1 to 5 of CIFAR-10-C (Hendrycks and Dietterich, 2019): deviation in [0, 1], width in pixels, quality."""


def noise(images: ImageSet, sigma: float, seed: int = 0) -> ImageSet:
    """Independent normal noise of standard deviation `sigma` (in units of [0, 1]) on every value, clipped to [0, 1]."""
    _positive("sigma", sigma)
    x = images.floats().contiguous()  # so that the draws follow the order of [N, C, H, W]
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # torchvision draws from torch's own generator
        torch.manual_seed(seed)
        noisy = _torchvision().gaussian_noise(x, sigma=sigma, clip=True)
    return replace(images, pixels=noisy, name=f"{images.name}, noise {sigma:g}")


def blur(images: ImageSet, sigma: float) -> ImageSet:
    """Gaussian blur of width `sigma` pixels; borders are reflected."""
    _positive("sigma", sigma)
    x = images.floats()
    # The kernel ends at four times its width, or where the reflection of a small image would.
    sides = [2 * max(1, min(math.ceil(4 * sigma), side - 1)) + 1 for side in x.shape[2:]]
    blurred = _torchvision().gaussian_blur(x, sides[::-1], [sigma, sigma])  # it wants the width first
    return replace(images, pixels=blurred.clamp_(0, 1), name=f"{images.name}, blur {sigma:g}")


def jpeg(images: ImageSet, quality: int) -> ImageSet:
    """Each image after JPEG at `quality` (1 to 95) and back: uint8 pixels."""
    if not 1 <= quality <= 95:
        raise DataFreeError(f"JPEG quality is {quality}; give a whole number from 1 to 95.")
    return replace(
        images,
        pixels=torch.stack([_through_jpeg(x, int(quality)) for x in _bytes(images)]),
        name=f"{images.name}, JPEG {quality}",
    )


def greyscale(images: ImageSet) -> ImageSet:
    """Three equal channels of luma (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B)."""
    luma = (
        images.floats() * images.pixels.new_tensor((0.299, 0.587, 0.114), dtype=torch.float32).view(1, 3, 1, 1)
    ).sum(1, keepdim=True)
    return replace(images, pixels=luma.expand(-1, 3, -1, -1).contiguous(), name=f"{images.name}, grey")


def corrupted(images: ImageSet, kind: str, severity: int) -> ImageSet:
    """One of SEVERITIES by its number, 1 to 5."""
    if kind not in SEVERITIES or not 1 <= severity <= len(SEVERITIES[kind]):
        raise DataFreeError(
            f"corruption '{kind}' of severity {severity} is not known; give one of {', '.join(SEVERITIES)} and 1 to 5."
        )
    return {"noise": noise, "blur": blur, "jpeg": jpeg}[kind](images, SEVERITIES[kind][severity - 1])


def _torchvision():
    """torchvision's transforms as functions, also where its build does not match that of torch."""
    torchvision_shim.install()
    from torchvision.transforms.v2 import functional

    return functional


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise DataFreeError(f"{name} is {value}; give a number above zero.")


def _bytes(images: ImageSet) -> torch.Tensor:
    pixels = images.pixels
    return pixels if pixels.dtype == torch.uint8 else pixels.clamp(0, 1).mul(255).round().to(torch.uint8)


def _through_jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1).to(image.device)
