"""A label for every pixel: a small network in the manner of DeepLabV3+, and the mean intersection over union."""

from __future__ import annotations

import torch
from torch import nn

from .. import torchvision_shim
from ..errors import DataFreeError
from .blocks import CIFAR_MEAN, CIFAR_STD, IMAGENET_MEAN, IMAGENET_STD, BasicBlock, Normalize

CAMVID_MEAN, CAMVID_STD = (0.4116, 0.4248, 0.4322), (0.3067, 0.3111, 0.3067)
"""Of the 367 training images."""


def _unit(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size, BatchNorm, ReLU."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one convolution of a pixel, some with holes, and the mean of the image, joined."""

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...]):
        super().__init__()
        self.point = _unit(inputs, width)
        self.holes = nn.ModuleList(_unit(inputs, width, 3, rate) for rate in rates)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), _unit(inputs, width))
        self.project = _unit((2 + len(rates)) * width, width)

    def forward(self, x):
        parts = [self.point(x), *(branch(x) for branch in self.holes)]
        # one value a channel for all pixels
        whole = self.image(x).expand_as(parts[0])
        return self.project(torch.cat([*parts, whole], 1))


class Segmenter(nn.Module):
    """DeepLabV3+ (Chen and others, 2018) in small: residual encoder to an eighth of the side, ASPP, decoder with a skip.

    Convolutions are ordinary ones, not separable: those of a pixel and those of one channel cannot be split.
    Sides of images must be multiples of eight. Outputs: logits [N, classes, H, W].
    """

    widths = (16, 32, 56)
    blocks = 2
    pooled = False
    pyramid, skip, decoder = 32, 16, 32
    rates = (2, 3)

    def __init__(self, classes: int = 8, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        low, middle, high = self.widths
        self.normalize = Normalize(mean, std)
        self.stem = nn.Sequential(nn.Conv2d(3, low, 3, 2, 1, bias=False), nn.BatchNorm2d(low), nn.ReLU())
        if self.pooled:
            self.stem.append(nn.MaxPool2d(2))
        self.layer1 = self._stage(low, low, 1)
        self.layer2 = self._stage(low, middle, 2)
        self.layer3 = self._stage(middle, high, 2)
        self.aspp = ASPP(high, self.pyramid, self.rates)
        self.enlarge = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
        self.low = _unit(low, self.skip)
        self.merge = nn.Sequential(
            _unit(self.pyramid + self.skip, self.decoder, 3), _unit(self.decoder, self.decoder, 3)
        )
        self.classify = nn.Conv2d(self.decoder, classes, 1)
        self.finish = nn.Upsample(scale_factor=4 if self.pooled else 2, mode="bilinear", align_corners=False)

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inputs, outputs, stride, projection=True)
        return nn.Sequential(first, *[BasicBlock(outputs, outputs, 1) for _ in range(self.blocks - 1)])

    def forward(self, x):
        fine = self.layer1(self.stem(self.normalize(x)))
        coarse = self.aspp(self.layer3(self.layer2(fine)))
        joined = torch.cat([self.enlarge(coarse), self.low(fine)], 1)
        return self.finish(self.classify(self.merge(joined)))


class CamvidSegmenter(Segmenter):
    """The same for the eleven classes of CamVid and images of 192 x 256: wider, pooled once more, its pyramid sees further."""

    widths = (32, 64, 96)
    pooled = True
    pyramid, skip, decoder = 64, 32, 64
    rates = (2, 4, 6)

    def __init__(self, classes: int = 11, mean=CAMVID_MEAN, std=CAMVID_STD):
        super().__init__(classes, mean, std)


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ of the package segmentation_models_pytorch behind its input normalisation, for PASCAL VOC's 21 classes.

    `network` has the package's own key names. The paper does not name the encoder. Only convolutions of more than a pixel
    can be split, and a ResNet-50 has too few of them for the printed reductions; a ResNet-34 has enough.
    Sides of images must be multiples of sixteen.
    """

    def __init__(self, classes: int = 21, mean=IMAGENET_MEAN, std=IMAGENET_STD, encoder: str = "resnet34"):
        super().__init__()
        torchvision_shim.install()  # the package imports torchvision
        try:
            import segmentation_models_pytorch as theirs
        except ImportError:
            raise DataFreeError(
                "'deeplabv3plus' needs the package segmentation_models_pytorch, which is optional; "
                "install it with: pip install 'segmentation-models-pytorch>=0.5,<0.6'."
            ) from None
        self.normalize = Normalize(mean, std)
        self.network = theirs.DeepLabV3Plus(encoder_name=encoder, encoder_weights=None, classes=classes)

    def forward(self, x):  # the network's own forward also asks for the size, which torch.fx cannot follow
        net = self.network
        return net.segmentation_head(net.decoder(net.encoder(self.normalize(x))))
