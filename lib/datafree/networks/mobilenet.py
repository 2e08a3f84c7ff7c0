"""MobileNetV1 (Howard et al., 2017), whose channels differ so much in range that one grid a tensor fails it.

Depthwise and pointwise convolutions in turn, with ReLU6. Others have trained it on ImageNet in TensorFlow (`datafree
inputs` lists the weights by name), so layers of stride 2 pad as TensorFlow does.
"""

from __future__ import annotations

import torch
from torch import nn

from .blocks import Normalize
from .efficientnet import conv_unit

MEAN, STD = (0.5,) * 3, (0.5,) * 3

PLAN = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Of each pair of layers: channels at full width, and the stride of the depthwise one."""


class MobileNetV1(nn.Module):
    """Images of 224 x 224 in [0, 1] to 1,000 classes.

    width: share of the channels of the full network.
    """

    def __init__(self, classes: int = 1000, mean=MEAN, std=STD, width: float = 0.25):
        super().__init__()
        inputs = int(32 * width)
        layers = conv_unit(3, inputs, 3, 2)
        for channels, stride in PLAN:
            outputs = int(channels * width)
            layers += conv_unit(inputs, inputs, 3, stride, groups=inputs) + conv_unit(inputs, outputs)
            inputs = outputs
        self.normalize = Normalize(mean, std)
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.features(self.normalize(x))), 1))


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state with Keras' names of layers under ours: both run the same layers in the same order."""
    pairs = [f"conv_{kind}_{k}" for k in range(1, len(PLAN) + 1) for kind in ("dw", "pw")]
    theirs = [name for conv in ("conv1", *pairs) for name in (conv, f"{conv}_bn")]
    kinds = nn.Conv2d | nn.BatchNorm2d
    ours = [f"features.{k}" for k, layer in enumerate(MobileNetV1().features) if isinstance(layer, kinds)]
    names = dict(zip(theirs, ours, strict=True)) | {"conv_preds": "linear"}
    found = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": v for key, v in state.items()}
    return found | {"linear.weight": found["linear.weight"].flatten(1)}
