"""Networks as readers bring them: torchvision's families, and small ones with something odd in each."""

import torch
import torch.nn.functional as F
from torch import nn

from datafree.networks.blocks import Normalize
from datafree.networks.classifiers import torchvision_models

FAMILIES = {
    "alexnet": 64, "vgg11_bn": 32, "resnet18": 32, "resnext50_32x4d": 32, "wide_resnet50_2": 32, "densenet121": 32,
    "googlenet": 32, "inception_v3": 75, "mobilenet_v2": 32, "mobilenet_v3_small": 32, "efficientnet_b0": 32,
    "mnasnet0_5": 32, "regnet_y_400mf": 32, "shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "convnext_tiny": 32,
    "vit_b_16": 32, "swin_t": 32,
}  # fmt: skip
"""Name in torchvision.models -> side of the image."""


def of_torchvision(name: str, side: int) -> nn.Module:
    """A network of that family with random weights and five classes, whose BatchNorm layers have seen noise of that size."""
    torch.manual_seed(0)
    settings = {"num_classes": 5}
    settings |= {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    settings |= {"image_size": side} if name == "vit_b_16" else {}
    model = nn.Sequential(Normalize(), torchvision_models().get_model(name, weights=None, **settings))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.rand(8, 3, side, side)) if norms else None
    return model.eval()


class Odd(nn.Module):
    """Two convolutions around what is odd."""

    def __init__(self, middle: nn.Module, channels: int = 8, inputs: int = 3, norm=nn.BatchNorm2d):
        super().__init__()
        mean = [0.5] * inputs
        self.normalize = Normalize(mean, mean)
        self.stem = nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1, bias=False), norm(8), nn.ReLU())
        self.middle = middle
        self.head = nn.Sequential(nn.Conv2d(channels, 8, 1, bias=False), norm(8), nn.ReLU())
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        return self.linear(self.head(self.middle(self.stem(self.normalize(x)))).mean((2, 3)))


class Twice(nn.Module):
    """One convolution used twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return F.relu(self.norm(self.conv(F.relu(self.norm(self.conv(x))))))


class Beside(nn.Module):
    """Two convolutions side by side, joined along the channels."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()


class Branching(nn.Module):
    """A way that depends on the values, which no trace can follow."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x) if x.sum() > 0 else x


def conv(act: nn.Module, norm=nn.BatchNorm2d, **settings) -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 8, 3, **({"padding": 1} | settings)), norm(8), act)


def groups(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


ODD = {
    "depthwise": lambda: Odd(conv(nn.ReLU(), groups=8)),
    "grouped": lambda: Odd(conv(nn.ReLU(), groups=2)),
    "dilated": lambda: Odd(conv(nn.ReLU(), dilation=2, padding=2)),
    "strided": lambda: Odd(conv(nn.ReLU6(), stride=2)),
    "one_channel": lambda: Odd(nn.Identity(), inputs=1),
    "joined": lambda: Odd(Beside(), channels=16),
    "shared": lambda: Odd(Twice()),
    "prelu": lambda: Odd(conv(nn.PReLU())),
    "silu": lambda: Odd(conv(nn.SiLU())),
    "groupnorm": lambda: Odd(conv(nn.ReLU(), norm=groups), norm=groups),
    "no_batchnorm": lambda: Odd(conv(nn.ReLU(), norm=lambda c: nn.Identity()), norm=lambda c: nn.Identity()),
    "no_activation": lambda: Odd(conv(nn.Identity())),
    "branching": lambda: Odd(Branching()),
    "transposed": lambda: Odd(nn.ConvTranspose2d(8, 8, 2)),
}


def odd(name: str) -> nn.Module:
    """That network with seeded weights and lively statistics of BatchNorm."""
    torch.manual_seed(0)
    model = ODD[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.1), module.running_var.uniform_(0.5, 1.5)
    return model.eval()
