"""Images by name: the embedded sets, those of the registry of inputs, torchvision's, and any folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .. import inputs, torchvision_shim
from ..config import device_named, suggestion
from ..errors import DataFreeError
from . import scenes
from .embedded import EMBEDDED_SETS, read_stub
from .images import ImageSet

VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
CAMVID_CLASSES = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
]  # fmt: skip
VOC_SIDE = 512
"""Side of the images of PASCAL VOC 2012. FRanDI has 513 (section 5.2); here it must be a multiple of 16."""

TORCHVISION_SETS = ("mnist", "fashion-mnist", "svhn", "stl10", "voc2012", "imagenet")
Size = int | tuple[int, int] | None
"""Side of a square, or rows and columns; None: as the files are."""
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def _read_image(path: Path, size: int | None) -> np.ndarray:
    try:
        if Image.open(path).mode.startswith("I"):
            raise ValueError("it has 16 bits a pixel, and images here have 8")
        image = Image.open(path).convert("RGB")
        if size and image.size != (size, size):
            image = centre_crop(image, size)
        return np.asarray(image)
    except Exception as error:  # decoders raise errors of many kinds on damaged files
        raise DataFreeError(f"image '{path}' cannot be read ({error}); remove it or replace it.") from None


def centre_crop(
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
    if len({k for _, k in files}) < len(classes):
        raise DataFreeError(
            f"class folder '{base / next(c for k, c in enumerate(classes) if k not in {n for _, n in files})}' holds no "
            f"image; fill it or remove it; {expected}."
        )
    if not all(path.is_file() for path, _ in files):
        raise DataFreeError(
            f"'{next(path for path, _ in files if not path.is_file())}' is no ordinary file; remove it or replace it."
        )
    files = [files[i] for i in _limited([k for _, k in files], limit)]
    arrays = [_read_image(path, size) for path, _ in files]
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise DataFreeError(f"images in '{base}' differ in size ({len(shapes)} sizes); give size=N to crop them alike.")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor([k for _, k in files]), classes, f"folder:{root.name}/{split}")


def _check_side(name: str, size: Size) -> None:
    if isinstance(size, tuple):
        raise DataFreeError(f"images of '{name}' are cropped to a square; give its side as size, not rows and columns.")


def _registered(name: str, split: str, size: Size, limit: int | None) -> ImageSet:
    """A data set of inputs.yaml, from the cache."""
    known = inputs.entry(name, "data")
    if known.splits and split not in known.splits:
        raise DataFreeError(f"data set '{name}' has no split '{split}'; it has {', '.join(known.splits)}.")
    path = inputs.find(name)
    if name == "camvid":
        return _camvid(path, split, size, limit)
    images = replace(_folder(path, split, size, limit), name=f"{name}/{split}")
    return _relabelled(images, known.labels) if known.labels else images


def _relabelled(images: ImageSet, numbers: dict[str, int]) -> ImageSet:
    """The same images with the labels of all 1,000 classes, of which a folder holds a few."""
    classes = [str(k) for k in range(1000)]
    for name, number in numbers.items():
        classes[number] = name
    labels = torch.tensor([numbers[name] for name in images.classes])[images.labels]
    return replace(images, labels=labels, classes=classes)


def _camvid(root: Path, split: str, size: Size, limit: int | None) -> ImageSet:
    """ROOT/SPLIT/NAME.jpg with a class for each pixel in ROOT/SPLITannot/NAME.png; 11 there is no class."""
    paths = sorted((root / split).glob("*.jpg"))
    images, masks = [], []
    for path in (paths[i] for i in _drawn(len(paths), limit)):
        image, mask = Image.open(path).convert("RGB"), Image.open(root / f"{split}annot" / f"{path.stem}.png")
        if size:
            rows, columns = size if isinstance(size, tuple) else (size, size)
            image = ImageOps.fit(image, (columns, rows), Image.Resampling.BILINEAR)
            mask = ImageOps.fit(mask, (columns, rows), Image.Resampling.NEAREST)
        images.append(np.asarray(image))
        masks.append(np.asarray(mask).astype(np.int8))
    pixels, labels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(masks))
    labels[labels == len(CAMVID_CLASSES)] = -1
    return ImageSet(pixels.contiguous(), labels, CAMVID_CLASSES, f"camvid/{split}")


def _drawn(count: int, limit: int | None) -> list[int]:
    """Places of at most `limit` of `count` images; the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(count, generator=generator)[:limit].sort().values.tolist()


def _torchvision_set(name: str, split: str, root: Path | None, download: bool):

    torchvision_shim.install()
    from torchvision import datasets

    if root is None:
        raise DataFreeError(f"data set '{name}' needs root=PATH (and download=True the first time, with a network).")
    train = split == "train"
    makers = {
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


def load_images(
    name: str, split: str = "test", *, root: str | Path | None = None, download: bool = False, size: Size = None,
    limit: int | None = None, device: str = "cpu",
) -> ImageSet:  # fmt: skip
    """Images by name.

    Args:
        name: one of EMBEDDED_SETS, 'scenes' (scenes.py), data that `datafree inputs` lists ('cifar10', say), one of
            torchvision's sets, or 'folder:PATH'.
        split: 'train' or 'test'.
        root: where torchvision's data sets lie; the others need none.
        download: let torchvision fetch them.
        size: resize and centre-crop to size x size (of camvid also to (rows, columns)); None keeps the size of a folder's files, and means
            224 for imagenet, 512 for voc2012, 64 for scenes, 32 for torchvision's and the embedded sets.
        limit: read at most so many images of a folder or of imagenet, equally many of each class; or so many scenes,
            or images of voc2012 and camvid.
        device: whose memory holds them, that of the network they are for: cpu, cuda, mps, or auto.
    """
    place = device_named(device)
    return _read(name, split, root, download, size, limit).to(place)


def _read(name: str, split: str, root: str | Path | None, download: bool, size: Size, limit: int | None) -> ImageSet:
    """Images by name, in the memory of the processor."""
    if split not in ("train", "test"):
        raise DataFreeError(f"split '{split}' is not known; use 'train' or 'test'.")
    if size is not None and min(size if isinstance(size, tuple) else (size,)) < 1:
        raise DataFreeError(f"size is {size}; give the side of the images in pixels, at least 1.")
    if name != "camvid":
        _check_side(name, size)
    if name in EMBEDDED_SETS:
        return read_stub(name, split, size or 32)
    if name == "scenes":
        return scenes.make(split, limit, size)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), split, size, limit)
    if name in inputs.names("data"):
        return _registered(name, split, size, limit)
    if name in TORCHVISION_SETS:
        side = size or {"imagenet": 224, "voc2012": VOC_SIDE}.get(name, 32)
        opened = _torchvision_set(name, split, Path(root) if root else None, download)
        if name == "voc2012":
            return _voc(opened, f"{name}/{split}", side, limit)
        return _from_torchvision(opened, f"{name}/{split}", side, limit if name == "imagenet" else None)
    known = (*EMBEDDED_SETS, "scenes", *inputs.names("data"), *TORCHVISION_SETS)
    raise DataFreeError(
        f"data set '{name}' is not known{suggestion(name, known)}; use 'folder:PATH' or one of {', '.join(known)}."
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
                else centre_crop(image, size)
            )
        images.append(np.asarray(image))
        labels.append(label if isinstance(label, int) else -1)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    classes = [str(c) for c in getattr(dataset, "classes", sorted(set(labels)))]
    return ImageSet(pixels, torch.tensor(labels), classes, name)


def _voc(dataset, name: str, size: int, limit: int | None) -> ImageSet:
    """Images and labels of every pixel; the border between objects, 255 in the files, has no label."""
    images, masks = [], []
    for image, mask in map(dataset.__getitem__, _drawn(len(dataset), limit)):
        images.append(np.asarray(centre_crop(image.convert("RGB"), size, size)))
        masks.append(np.asarray(centre_crop(mask, size, size, Image.Resampling.NEAREST)).astype(np.int8))  # 255 is -1
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.from_numpy(np.stack(masks)), VOC_CLASSES, name)
