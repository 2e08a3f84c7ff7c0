"""A small network whose BatchNorm has seen smooth images."""

import pytest
import torch
from torch import nn

from datafree.networks.blocks import Normalize


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    layers = [Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))]
    for i, o in ((3, 8), (8, 8)):
        layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).train()
    for _ in range(30):  # statistics of smooth images, so that noise does not match them
        net(nn.functional.interpolate(torch.rand(16, 3, 4, 4), 16))
    return net.eval()
