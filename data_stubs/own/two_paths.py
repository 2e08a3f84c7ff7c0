"""A network that the book does not know: two paths side by side, joined by a concatenation. Chapter 15 compresses it."""

import torch
from torch import nn


def layer(channels: int, out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())


class TwoPaths(nn.Module):
    """Half of the channels from a full convolution, half from a depthwise one and a pointwise one."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.full = layer(channels, out // 2, 3)
        self.thin = nn.Sequential(layer(channels, channels, 3, groups=channels), layer(channels, out // 2, 1))

    def forward(self, x):
        return torch.cat([self.full(x), self.thin(x)], dim=1)


def build(classes: int = 10) -> nn.Module:
    """For colour images; it does not normalise them."""
    halve = nn.MaxPool2d(2)
    features = [layer(3, 16, 3), TwoPaths(16, 32), halve, TwoPaths(32, 64), halve, TwoPaths(64, 128)]
    return nn.Sequential(*features, nn.Conv2d(128, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
