"""Classifiers for small images, and those of torchvision.

Images enter in [0, 1]; the first layer of every network normalises them. Activations are modules (never functional
calls), so hooks, torch.fx and the quantiser see them by name.
"""

from __future__ import annotations

import torch
from torch import nn

from .. import torchvision_shim
from ..errors import DataFreeError
from .blocks import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, BasicBlock, InvertedResidual, Normalize, conv_bn


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32 x 32 images; key names as in akamaster/pytorch_resnet_cifar10.

    projection: option B of He et al. (2016): convolutions on the shortcuts that change the shape, in place of padding.
    """

    def __init__(self, depth: int, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD, projection: bool = False):
        super().__init__()
        n = (depth - 2) // 6
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, n, 1, projection)
        self.layer2 = self._stage(16, 32, n, 2, projection)
        self.layer3 = self._stage(32, 64, n, 2, projection)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs, outputs, blocks, stride, projection):
        first = BasicBlock(inputs, outputs, stride, projection)
        return nn.Sequential(first, *[BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)])

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


class CifarResNet18(nn.Module):
    """ResNet-18 for 32 x 32 images: a stem of 3 x 3 pixels without pooling, as FRanDI's ablations have it.

    `width` is that of the stem (64 in the paper) and doubles three times.
    """

    def __init__(self, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD, width: int = 64):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        inputs = width
        for k in range(4):
            outputs = width * 2**k
            blocks = BasicBlock(inputs, outputs, 1 if k == 0 else 2, True), BasicBlock(outputs, outputs, 1)
            setattr(self, f"layer{k + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.flatten(self.pool(x), 1))


class SlimVGG(nn.Module):
    """VGG with BatchNorm, slimmed for 32 x 32 images: numbers are widths, 'M' halves the resolution."""

    plan = (32, 32, "M", 64, 64, "M", 128, 128, "M", 128, 128)

    def __init__(self, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        layers, inputs = [], 3
        for width in self.plan:
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += conv_bn(inputs, width)
                inputs = width
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.features(self.normalize(x))), 1))


class VGG16(SlimVGG):
    """VGG-16 with BatchNorm for 32 x 32 images, one linear layer behind it: the network of UDFC's introduction."""

    plan = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)


class SmallMobileNetV2(nn.Module):
    """MobileNetV2 with ReLU for 32 x 32 images; rows of the plan: expansion, width, blocks, stride."""

    plan = ((1, 16, 1, 2), (4, 32, 3, 1), (4, 64, 4, 2))

    def __init__(self, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        layers, inputs = conv_bn(3, 16), 16
        for expand, width, blocks, stride in self.plan:
            for i in range(blocks):
                layers.append(InvertedResidual(inputs, width, stride if i == 0 else 1, expand))
                inputs = width
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*layers, *conv_bn(inputs, 256, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(256, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.features(self.normalize(x))), 1))


TORCHVISION_MODELS = ("resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "efficientnet_b0")
"""Networks of torchvision that are known by name: 1,000 classes, images of 224 x 224."""


def torchvision_models():

    torchvision_shim.install()
    from torchvision import models

    return models


class FromTorchvision(nn.Module):
    """A network of torchvision behind its input normalisation; `network` has torchvision's own key names."""

    def __init__(self, name: str, classes: int = 1000, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = torchvision_models().get_model(name, weights=None, num_classes=classes)

    def forward(self, x):
        return self.network(self.normalize(x))


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    """The weights that torchvision trained on ImageNet, fetched or from its cache."""
    try:
        return torchvision_models().get_model(name, weights="DEFAULT").state_dict()
    except Exception as error:
        raise DataFreeError(
            f"torchvision's weights of '{name}' could not be fetched ({str(error).strip().splitlines()[0]}); "
            "they need a network the first time, or give weights=PATH of a file fetched elsewhere."
        ) from None
