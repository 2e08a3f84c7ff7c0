"""Networks of any depth and width, and images of any size, for what is timed."""

from __future__ import annotations

import torch
from torch import nn

from datafree.data.images import ImageSet, generated
from datafree.networks.classifiers import CifarResNet


def residual(depth: int = 20, width: int = 16) -> nn.Module:
    """ResNet-(6n+2) for small images with `width` channels in its first stage; random weights."""
    net, blocks = CifarResNet(depth), (depth - 2) // 6
    net.conv1, net.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
    net.layer1 = net._stage(width, width, blocks, 1, False)
    net.layer2 = net._stage(width, 2 * width, blocks, 2, False)
    net.layer3 = net._stage(2 * width, 4 * width, blocks, 2, False)
    net.linear = nn.Linear(4 * width, 10)
    return net.eval()


def noise(count: int, side: int = 32) -> ImageSet:
    """Images of noise; time does not depend on what they show."""
    return generated(torch.rand(count, 3, side, side), "noise")


SIZES = {"batch": 32, "depth": 20, "width": 16, "image side": 32}
"""What stays as it is while one of them grows."""


def sized(axis: str, size: int) -> tuple[nn.Module, int, int]:
    """Network, number of images and their side, with one axis of SIZES at `size`."""
    given = SIZES | {axis: size}
    return residual(given["depth"], given["width"]), given["batch"], given["image side"]
