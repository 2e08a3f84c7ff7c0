"""Every network that is known by name."""

from __future__ import annotations

from functools import partial

from torch import nn

from ..errors import DataFreeError
from .classifiers import (
    TORCHVISION_MODELS,
    VGG16,
    CifarResNet,
    CifarResNet18,
    FromTorchvision,
    SlimVGG,
    SmallMobileNetV2,
)
from .efficientnet import EfficientNetLite0
from .enet import ENet
from .mobilenet import MobileNetV1
from .segmentation import CamvidSegmenter, DeepLabV3Plus, Segmenter

IMAGENET_MODELS = (*TORCHVISION_MODELS, "efficientnet_lite0", "mobilenet_v1_0.25")
"""Networks of 1,000 classes and images of 224 x 224."""
CIFAR_RESNETS = {f"resnet{depth}": partial(CifarResNet, depth) for depth in (20, 32, 44, 56)}
"""Residual networks for 32 x 32 images, with either kind of shortcut."""
SEGMENTERS = {"segmenter": 64, "segmenter_camvid": (192, 256), "enet": (360, 480), "deeplabv3plus": 512}
"""Networks that label pixels (networks/segmentation.py), and the side, or rows and columns, of their images."""


def image_size(name: str) -> int | tuple[int, int] | None:
    """Side of the images that a network was made for, or (rows, columns); None where it is that of CIFAR-10 and its like."""
    return 224 if name in IMAGENET_MODELS else SEGMENTERS.get(name)


def image_shape(name: str) -> tuple[int, int, int]:
    """(channels, rows, columns) of one image of a network."""
    size = image_size(name) or 32
    return (3, *size) if isinstance(size, tuple) else (3, size, size)


ARCHITECTURES = {
    **CIFAR_RESNETS,
    "resnet18_cifar": CifarResNet18,
    "resnet18_cifar_half": partial(CifarResNet18, width=32),
    "slim_vgg": SlimVGG,
    "vgg16_cifar": VGG16,
    "mobilenet_v2_small": SmallMobileNetV2,
    "efficientnet_lite0": EfficientNetLite0,
    "mobilenet_v1_0.25": MobileNetV1,
    "segmenter": Segmenter,
    "segmenter_camvid": CamvidSegmenter,
    "enet": ENet,
    "deeplabv3plus": DeepLabV3Plus,
    **{name: partial(FromTorchvision, name) for name in TORCHVISION_MODELS},
}
"""Everything `build_network` and `load_network` know. Those with a file in data_stubs/models need no `weights`; nor does
efficientnet_lite0, whose weights come as a package."""


def known_network(name: str) -> str:
    """`name`, if it is one of ARCHITECTURES."""
    if name not in ARCHITECTURES:
        raise DataFreeError(f"model '{name}' is not known; choose one of {', '.join(ARCHITECTURES)}.")
    return name


def build_network(name: str, **settings) -> nn.Module:
    """A fresh network with random weights."""
    return ARCHITECTURES[known_network(name)](**settings)
