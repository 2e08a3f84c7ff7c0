"""Images with their labels, as one small class, and their augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..errors import DataFreeError


@dataclass(frozen=True)
class ImageSet:
    """Images [N, C, H, W] with integer labels [N], or [N, H, W] for pixels (-1 where there is none).

    `pixels` are uint8, or floats in [0, 1] for generated images; `floats()` gives [0, 1] either way.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    name: str

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index) -> ImageSet:
        index = torch.as_tensor([index], device="cpu") if isinstance(index, int) else index
        index = index.to(self.pixels.device) if isinstance(index, torch.Tensor) else index
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def to(self, device) -> ImageSet:
        """The same images in the memory of a device; batches come from there."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def floats(self) -> torch.Tensor:
        """The images as float32 in [0, 1], channels last in memory."""
        x = self.pixels
        x = x.float().div_(255) if x.dtype == torch.uint8 else x
        return x.contiguous(memory_format=torch.channels_last)

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All images in order, `size` at a time, as floats with their labels."""
        for start in range(0, len(self), size):
            part = self[slice(start, start + size)]
            yield part.floats(), part.labels

    @property
    def present(self) -> list[int]:
        """Numbers of the classes of which there is an image: all, or the few of ImageNet that a part of it has."""
        return self.labels.unique().tolist()

    def per_class(self, count: int, seed: int = 0) -> ImageSet:
        """`count` images of each class that is present, drawn with the given seed."""
        if self.labels.ndim > 1:
            raise DataFreeError(f"'{self.name}' labels pixels, so its images have no class to draw by.")
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for label in self.present:
            index = (self.labels == label).nonzero().flatten()
            if len(index) < count:
                raise DataFreeError(
                    f"'{self.name}' has {len(index)} images of class '{self.classes[label]}', {count} were asked for."
                )
            order = torch.randperm(len(index), generator=generator, device="cpu").to(index.device)
            chosen.append(index[order[:count]])
        return self[torch.cat(chosen).sort().values]


def joined(sets: list[ImageSet], name: str) -> ImageSet:
    """Several sets of the same kind and size of image, one after the other."""
    if len({(s.pixels.shape[1:], s.pixels.dtype) for s in sets}) > 1:
        raise DataFreeError(
            f"'{name}' would join images of different shape or kind: {', '.join(s.name for s in sets)}."
        )
    pixels, labels = (torch.cat([getattr(s, part) for s in sets]) for part in ("pixels", "labels"))
    return replace(sets[0], pixels=pixels, labels=labels, name=name)


def generated(images: torch.Tensor, name: str, labels: torch.Tensor | None = None, classes: int = 0) -> ImageSet:
    """Wrap float images in [0, 1] that no camera made; their classes are numbers, because nobody named them.

    Args:
        labels: default: -1, none.
        classes: how many there are, one for each output of a network; never fewer than the labels need.
    """
    labels = torch.full((len(images),), -1, device=images.device) if labels is None else labels
    count = max(classes, max(labels.tolist(), default=-1) + 1)
    return ImageSet(images.detach(), labels, [str(k) for k in range(count)], name)


def resized(images: ImageSet, side: int) -> ImageSet:
    """The same images, enlarged or reduced to side x side."""
    return replace(images, pixels=resize_pixels(images.pixels, side))


def resize_pixels(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """uint8 images [N, 3, H, W] as side x side, with the filter that torchvision's small sets get."""
    tiles = [
        Image.fromarray(tile).resize((side, side), Image.Resampling.BILINEAR)
        for tile in pixels.permute(0, 2, 3, 1).numpy()
    ]
    return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2).contiguous()


def random_crop_and_mirror(
    x: torch.Tensor, generator: torch.Generator, pad: int = 4, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """Random crop after reflection padding, and mirror: one draw an image, the whole batch at once.

    Args:
        size: rows and columns of the crop; default: those of the images.
    """
    n, c, *whole = x.shape
    h, w = size or whole
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect")
    # corner of the crop in the padded image
    here = generator.device
    dy, dx = (
        torch.randint(0, side - kept + 2 * pad + 1, (n, 1), generator=generator, device=here)
        for side, kept in zip(whole, (h, w), strict=True)
    )
    flip = torch.rand(n, 1, generator=generator, device=here) < 0.5
    columns = torch.arange(w, device=here).expand(n, w)
    columns = (torch.where(flip, columns.flip(1), columns) + dx).to(x.device)
    rows = (torch.arange(h, device=here).expand(n, h) + dy).to(x.device)
    # one gather for the whole batch: image, row, column
    index = torch.arange(n, device=x.device).view(n, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def pixels_hash(images: ImageSet) -> str:
    """SHA-256 over pixels and labels: two sets of one name and one hash are the same images."""
    digest = hashlib.sha256(images.pixels.cpu().contiguous().numpy().tobytes())
    digest.update(images.labels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
