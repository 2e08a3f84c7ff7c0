"""Images: the embedded stub, torchvision's data sets, and any folder, as one small class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .errors import DataFreeError
from .paths import stub_path, verified

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FASHION_CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
VOC_SIDE = 512
"""Side of the images of PASCAL VOC 2012. FRanDI has 513 (section 5.2); here it must be a multiple of 16."""

EMBEDDED_SETS = {
    "cifar10-stub": ("cifar10", CIFAR10_CLASSES),
    "fashion-mnist-stub": ("fashion-mnist", FASHION_CLASSES),
    "digits-stub": ("digits", [str(k) for k in range(10)]),
}
"""Name of an embedded set -> its folder in data_stubs and its classes."""

TORCHVISION_SETS = ("cifar10", "cifar100", "mnist", "fashion-mnist", "svhn", "stl10", "voc2012", "imagenet")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
        index = torch.as_tensor([index]) if isinstance(index, int) else index
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

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

    def per_class(self, count: int, seed: int = 0) -> ImageSet:
        """`count` images of each class, drawn with the given seed."""
        if self.labels.ndim > 1:
            raise DataFreeError(f"'{self.name}' labels pixels, so its images have no class to draw by.")
        generator = torch.Generator().manual_seed(seed)
        chosen = []
        for label in range(len(self.classes)):
            index = (self.labels == label).nonzero().flatten()
            if len(index) < count:
                raise DataFreeError(
                    f"'{self.name}' has {len(index)} images of class '{self.classes[label]}', {count} were asked for."
                )
            chosen.append(index[torch.randperm(len(index), generator=generator)[:count]])
        return self[torch.cat(chosen).sort().values]


def joined(sets: list[ImageSet], name: str) -> ImageSet:
    """Several sets of the same kind and size of image, one after the other."""
    if len({(s.pixels.shape[1:], s.pixels.dtype) for s in sets}) > 1:
        raise DataFreeError(
            f"'{name}' would join images of different shape or kind: {', '.join(s.name for s in sets)}."
        )
    pixels, labels = (torch.cat([getattr(s, part) for s in sets]) for part in ("pixels", "labels"))
    return replace(sets[0], pixels=pixels, labels=labels, name=name)


def generated(images: torch.Tensor, name: str, labels: torch.Tensor | None = None) -> ImageSet:
    """Wrap float images in [0, 1] that no camera made."""
    labels = torch.full((len(images),), -1) if labels is None else labels
    return ImageSet(images.detach(), labels, CIFAR10_CLASSES, name)


def _stub(name: str, split: str, side: int) -> ImageSet:
    folder, classes = EMBEDDED_SETS[name]
    missing = f"the embedded subset '{name}' has no split '{split}'; use 'test' or 'train'"
    sheet = verified(stub_path(f"{folder}/{split}.webp", missing=missing))
    listing = json.loads(
        verified(stub_path(f"{folder}/{split}.json", missing="the labels of the stub are missing")).read_text()
    )
    labels = torch.tensor(listing["labels"])
    columns, size = listing["columns"], listing["size"]
    picture = torch.from_numpy(np.array(Image.open(sheet).convert("RGB")))
    rows = picture.shape[0] // size
    tiles = picture.view(rows, size, columns, size, 3).permute(0, 2, 4, 1, 3).reshape(-1, 3, size, size)
    tiles = tiles[: len(labels)].contiguous()
    return ImageSet(tiles if size == side else _resized(tiles, side), labels, classes, f"{name}/{split}")


def resized(images: ImageSet, side: int) -> ImageSet:
    """The same images, enlarged or reduced to side x side."""
    return replace(images, pixels=_resized(images.pixels, side))


def _resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """uint8 images [N, 3, H, W] as side x side, with the filter that torchvision's small sets get."""
    tiles = [
        Image.fromarray(tile).resize((side, side), Image.Resampling.BILINEAR)
        for tile in pixels.permute(0, 2, 3, 1).numpy()
    ]
    return torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2).contiguous()


def _read_image(path: Path, size: int | None) -> np.ndarray:
    try:
        image = Image.open(path).convert("RGB")
        if size and image.size != (size, size):
            image = _centre_crop(image, size)
        return np.asarray(image)
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise DataFreeError(f"image '{path}' cannot be read ({error}); remove it or replace it.") from None


def _centre_crop(
    image: Image.Image, size: int, shorter: int | None = None, how: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """Shorter side to `shorter` (default: size * 256 / 224, the usual ImageNet evaluation), then the centre."""
    scale = (shorter or round(size * 256 / 224)) / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), how)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _limited(labels: list[int], limit: int | None) -> list[int]:
    """Places of at most `limit` images, equally many of each class; the same ones every time."""
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    known = torch.tensor(labels)
    each = limit // len(known.unique())
    if each < 1:
        raise DataFreeError(f"{limit} images were asked for, fewer than the {len(known.unique())} classes.")
    generator = torch.Generator().manual_seed(0)
    places = (torch.nonzero(known == k).flatten() for k in known.unique())
    chosen = [p[torch.randperm(len(p), generator=generator)[:each]] for p in places]
    return torch.cat(chosen).sort().values.tolist()


def _folder(root: Path, split: str, size: int | None, limit: int | None = None) -> ImageSet:
    """ROOT/[SPLIT/]CLASS/IMAGE, classes in sorted order."""
    expected = (
        f"expected '{root}/CLASS/IMAGE' or '{root}/{split}/CLASS/IMAGE' with {', '.join(sorted(IMAGE_SUFFIXES))} files"
    )
    if not root.is_dir():
        raise DataFreeError(f"data folder '{root}' does not exist; {expected}.")
    base = root / split if (root / split).is_dir() else root
    classes = sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        (p, k)
        for k, c in enumerate(classes)
        for p in sorted((base / c).iterdir())
        if p.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise DataFreeError(f"data folder '{base}' holds no class folders with images; {expected}.")
    files = [files[i] for i in _limited([k for _, k in files], limit)]
    arrays = [_read_image(path, size) for path, _ in files]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise DataFreeError(f"images in '{base}' differ in size ({len(shapes)} sizes); give size=N to crop them alike.")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor([k for _, k in files]), classes, f"folder:{root.name}/{split}")


def _torchvision_set(name: str, split: str, root: Path | None, download: bool):
    from . import torchvision_shim

    torchvision_shim.install()
    from torchvision import datasets

    if root is None:
        raise DataFreeError(f"data set '{name}' needs root=PATH (and download=True the first time, with a network).")
    train = split == "train"
    makers = {
        "cifar10": lambda: datasets.CIFAR10(root, train=train, download=download),
        "cifar100": lambda: datasets.CIFAR100(root, train=train, download=download),
        "mnist": lambda: datasets.MNIST(root, train=train, download=download),
        "fashion-mnist": lambda: datasets.FashionMNIST(root, train=train, download=download),
        "svhn": lambda: datasets.SVHN(root, split=split, download=download),
        "stl10": lambda: datasets.STL10(root, split=split, download=download),
        "voc2012": lambda: datasets.VOCSegmentation(root, "2012", "train" if train else "val", download),
        "imagenet": lambda: datasets.ImageNet(root, "train" if train else "val"),
    }
    try:
        return makers[name]()
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DataFreeError(
            f"data set '{name}' could not be opened under '{root}' ({reason}); "
            "download it there first, or give download=True and a network."
        ) from None


def load(
    name: str, split: str = "test", *, root: str | Path | None = None, download: bool = False, size: int | None = None,
    limit: int | None = None,
) -> ImageSet:  # fmt: skip
    """Images by name.

    Args:
        name: one of EMBEDDED_SETS, 'scenes' (datafree.scenes), one of torchvision's sets, or 'folder:PATH'.
        split: 'train' or 'test'.
        root: where torchvision's data sets lie.
        download: let torchvision fetch them.
        size: resize and centre-crop to size x size; None keeps the size of a folder's files, and means
            224 for imagenet, 512 for voc2012, 64 for scenes, 32 for all other sets.
        limit: read at most so many images of a folder or of imagenet, equally many of each class; or so many scenes,
            or images of voc2012.
    """
    if split not in ("train", "test"):
        raise DataFreeError(f"split '{split}' is not known; use 'train' or 'test'.")
    if size is not None and size < 1:
        raise DataFreeError(f"size is {size}; give the side of the images in pixels, at least 1.")
    if name in EMBEDDED_SETS:
        return _stub(name, split, size or 32)
    if name == "scenes":
        from . import scenes

        return scenes.make(split, limit, size)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), split, size, limit)
    if name in TORCHVISION_SETS:
        side = size or {"imagenet": 224, "voc2012": VOC_SIDE}.get(name, 32)
        opened = _torchvision_set(name, split, Path(root) if root else None, download)
        if name == "voc2012":
            return _voc(opened, f"{name}/{split}", side, limit)
        return _from_torchvision(opened, f"{name}/{split}", side, limit if name == "imagenet" else None)
    raise DataFreeError(
        f"data set '{name}' is not known; use 'folder:PATH' or one of {', '.join((*EMBEDDED_SETS, 'scenes', *TORCHVISION_SETS))}."
    )


def _from_torchvision(dataset, name: str, size: int, limit: int | None = None) -> ImageSet:
    images, labels = [], []
    places = range(len(dataset)) if limit is None else _limited(dataset.targets, limit)
    for image, label in map(dataset.__getitem__, places):
        image = image.convert("RGB")
        if image.size != (size, size):
            image = (
                image.resize((size, size), Image.Resampling.BILINEAR)
                if max(image.size) <= 96
                else _centre_crop(image, size)
            )
        images.append(np.asarray(image))
        labels.append(label if isinstance(label, int) else -1)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    classes = [str(c) for c in getattr(dataset, "classes", sorted(set(labels)))]
    return ImageSet(pixels, torch.tensor(labels), classes, name)


def _voc(dataset, name: str, size: int, limit: int | None) -> ImageSet:
    """Images and labels of every pixel; the border between objects, 255 in the files, has no label."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randperm(len(dataset), generator=generator)[:limit].sort().values.tolist()
    images, masks = [], []
    for image, mask in map(dataset.__getitem__, places):
        images.append(np.asarray(_centre_crop(image.convert("RGB"), size, size)))
        masks.append(np.asarray(_centre_crop(mask, size, size, Image.Resampling.NEAREST)).astype(np.int8))  # 255 is -1
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.from_numpy(np.stack(masks)), VOC_CLASSES, name)


def augment(x: torch.Tensor, generator: torch.Generator, pad: int = 4) -> torch.Tensor:
    """Random crop after reflection padding, and mirror: one draw an image, the whole batch at once."""
    n, c, h, w = x.shape
    padded = F.pad(x, (pad, pad, pad, pad), mode="reflect")
    dy, dx = (torch.randint(0, 2 * pad + 1, (n, 1), generator=generator) for _ in range(2))
    flip = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.arange(w).expand(n, w)
    columns = torch.where(flip, columns.flip(1), columns) + dx
    rows = torch.arange(h).expand(n, h) + dy
    index = torch.arange(n).view(n, 1, 1)
    return padded.permute(0, 2, 3, 1)[index, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


def write_stub(
    source: ImageSet, split: str, per_class: int | None, columns: int = 50, name: str = "cifar10-stub"
) -> Path:
    """Make data_stubs/FOLDER/SPLIT.{webp,json}: a lossless sheet of tiles and its labels.

    Args:
        source: the whole set, at its own size.
        per_class: images of each class to draw; None takes all, in their order.
        name: one of EMBEDDED_SETS.
    """
    from .paths import STUBS, write_atomically

    chosen = source if per_class is None else source.per_class(per_class)
    n, _, size, _ = chosen.pixels.shape
    rows = -(-n // columns)
    tiles = torch.zeros(rows * columns, 3, size, size, dtype=torch.uint8)
    tiles[:n] = chosen.pixels
    sheet = tiles.view(rows, columns, 3, size, size).permute(0, 3, 1, 4, 2).reshape(rows * size, columns * size, 3)
    listing = {"labels": chosen.labels.tolist(), "columns": columns, "size": size}
    folder = STUBS / EMBEDDED_SETS[name][0]
    write_atomically(folder / f"{split}.json", lambda p: p.write_text(json.dumps(listing)))
    return write_atomically(
        folder / f"{split}.webp",
        lambda p: Image.fromarray(sheet.numpy()).save(p, lossless=True, quality=100, method=6, exact=True),
    )
