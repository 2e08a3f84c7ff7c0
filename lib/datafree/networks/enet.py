"""ENet (Paszke and others, 2016) as PyTorch-ENet (David Silva) builds it, for the weights that others trained on CamVid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import Normalize


def _unit(conv: nn.Module) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.PReLU()]


def _conv(inputs: int, outputs: int, kernel=1, **settings) -> list[nn.Module]:
    return _unit(nn.Conv2d(inputs, outputs, kernel, bias=False, **settings))


class Initial(nn.Module):
    """A convolution and a pooling of the image, both at half its side, joined."""

    def __init__(self, outputs: int):
        super().__init__()
        self.main_branch = nn.Conv2d(3, outputs - 3, 3, 2, 1, bias=False)
        self.ext_branch = nn.MaxPool2d(3, 2, 1)
        self.batch_norm = nn.BatchNorm2d(outputs)
        self.out_prelu = nn.PReLU(outputs)

    def forward(self, x):
        return self.out_prelu(self.batch_norm(torch.cat([self.main_branch(x), self.ext_branch(x)], 1)))


class Bottleneck(nn.Module):
    """Three convolutions at a quarter of the channels, added to the input; the middle one may have holes or be split."""

    def __init__(self, channels: int, dilation: int = 1, asymmetric: bool = False):
        super().__init__()
        inner = channels // 4
        self.ext_conv1 = nn.Sequential(*_conv(channels, inner))
        if asymmetric:
            middle = _conv(inner, inner, (5, 1), padding=(2, 0)) + _conv(inner, inner, (1, 5), padding=(0, 2))
        else:
            middle = _conv(inner, inner, 3, padding=dilation, dilation=dilation)
        self.ext_conv2 = nn.Sequential(*middle)
        self.ext_conv3 = nn.Sequential(*_conv(inner, channels))
        self.out_prelu = nn.PReLU(channels)

    def forward(self, x):
        return self.out_prelu(x + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


class Down(nn.Module):
    """The same at half the side, added to the pooled input; also gives where the largest values were."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        inner = inputs // 4
        self.extra = outputs - inputs
        self.main_max1 = nn.MaxPool2d(2, 2, return_indices=True)
        self.ext_conv1 = nn.Sequential(*_conv(inputs, inner, 2, stride=2))
        self.ext_conv2 = nn.Sequential(*_conv(inner, inner, 3, padding=1))
        self.ext_conv3 = nn.Sequential(*_conv(inner, outputs))
        self.out_prelu = nn.PReLU(outputs)

    def forward(self, x):
        main, where = self.main_max1(x)
        main = F.pad(main, (0, 0, 0, 0, 0, self.extra))  # new channels are zero
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x)))), where


class Up(nn.Module):
    """The same at twice the side, added to the input put back to where the largest values were."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        inner = inputs // 4
        self.main_conv1 = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.main_unpool1 = nn.MaxUnpool2d(2)
        self.ext_conv1 = nn.Sequential(*_conv(inputs, inner))
        wide = nn.ConvTranspose2d(inner, inner, 3, 2, 1, output_padding=1, bias=False)
        self.ext_conv2 = nn.Sequential(*_unit(wide))
        self.ext_conv3 = nn.Sequential(*_conv(inner, outputs))
        self.out_prelu = nn.PReLU(outputs)

    def forward(self, x, where):
        main = self.main_unpool1(self.main_conv1(x), where)
        return self.out_prelu(main + self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))


MIDDLE = {
    "regular2_1": {}, "dilated2_2": {"dilation": 2}, "asymmetric2_3": {"asymmetric": True}, "dilated2_4": {"dilation": 4},
    "regular2_5": {}, "dilated2_6": {"dilation": 8}, "asymmetric2_7": {"asymmetric": True}, "dilated2_8": {"dilation": 16},
    "regular3_0": {}, "dilated3_1": {"dilation": 2}, "asymmetric3_2": {"asymmetric": True}, "dilated3_3": {"dilation": 4},
    "regular3_4": {}, "dilated3_5": {"dilation": 8}, "asymmetric3_6": {"asymmetric": True}, "dilated3_7": {"dilation": 16},
}  # fmt: skip
"""Bottlenecks at an eighth of the side, in their order."""


class ENet(nn.Module):
    """Labels of pixels for images whose sides are multiples of eight. Outputs: logits [N, classes, H, W].

    The file's twelfth output, pixels without a class, is left out. Dropout, which matters in training only, is too.
    """

    def __init__(self, classes: int = 11, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.initial_block = Initial(16)
        self.downsample1_0 = Down(16, 64)
        self.stage1 = [f"regular1_{k}" for k in range(1, 5)]
        for name in self.stage1:
            self.add_module(name, Bottleneck(64))
        self.downsample2_0 = Down(64, 128)
        for name, settings in MIDDLE.items():
            self.add_module(name, Bottleneck(128, **settings))
        self.upsample4_0 = Up(128, 64)
        self.regular4_1, self.regular4_2 = Bottleneck(64), Bottleneck(64)
        self.upsample5_0 = Up(64, 16)
        self.regular5_1 = Bottleneck(16)
        self.transposed_conv = nn.ConvTranspose2d(16, classes, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, x):
        x, first = self.downsample1_0(self.initial_block(self.normalize(x)))
        for name in self.stage1:
            x = self.get_submodule(name)(x)
        x, second = self.downsample2_0(x)
        for name in MIDDLE:
            x = self.get_submodule(name)(x)
        x = self.regular4_2(self.regular4_1(self.upsample4_0(x, second)))
        return self.transposed_conv(self.regular5_1(self.upsample5_0(x, first)))


def eleven_classes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """PyTorch-ENet's weights without the output for pixels that have no class."""
    last = "transposed_conv.weight"
    return state | {last: state[last][:, :11]}
