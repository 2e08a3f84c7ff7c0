"""Blocks that several networks share, and the normalisation of their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import DataFreeError


def normalization(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """mean, std [C] of the model's first Normalize layer."""
    for module in model.modules():
        if isinstance(module, Normalize):
            return module.mean.flatten(), module.std.flatten()
    raise DataFreeError(
        f"{type(model).__name__} has no datafree.networks.blocks.Normalize layer, so the moments of its inputs are unknown; "
        "put nn.Sequential(Normalize(mean, std), network) in its place."
    )


CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """(x - mean) / std per channel: the published constants of a network, as its first layer."""

    def __init__(self, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class PadShortcut(nn.Module):
    """Option A shortcut of He et al. (2016): every second pixel, new channels zero. No parameters."""

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.stride, self.before = stride, new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class CappedReLU(nn.Module):
    """max(0, x), and no more than the channel's own cap [C]: what ReLU6 is to a channel that was divided by s, with 6/s."""

    def __init__(self, cap: torch.Tensor):
        super().__init__()
        self.register_buffer("cap", cap.clone())

    def forward(self, x):
        return torch.minimum(x.relu(), self.cap.view(1, -1, *[1] * (x.ndim - 2)))


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, add the shortcut, ReLU.

    projection: shortcuts that change the shape are a convolution of one pixel with BatchNorm, in place of padding.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if inputs == outputs and stride == 1:
            self.shortcut = nn.Identity()
        elif projection:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        else:
            self.shortcut = PadShortcut(outputs - inputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x):
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.shortcut(x))


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, relu=True) -> list[nn.Module]:
    """Convolution without bias, BatchNorm, and ReLU if asked for."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers + [nn.ReLU()] * relu


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 (linear); shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        layers = conv_bn(inputs, hidden, 1) if expand > 1 else []
        layers += conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.body = nn.Sequential(*layers, *conv_bn(hidden, outputs, 1, relu=False))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
