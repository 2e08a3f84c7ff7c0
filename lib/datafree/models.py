"""The networks of the book, their embedded weights, and a safe way to load anybody's.

Images enter in [0, 1]; the first layer of every model normalises them. Activations are modules
(never functional calls), so hooks, torch.fx and the quantiser see them by name.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .errors import DataFreeError
from .paths import stub_path, verified

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


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32 x 32 images; key names as in akamaster/pytorch_resnet_cifar10."""

    def __init__(self, depth: int, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        n = (depth - 2) // 6
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, n, 1)
        self.layer2 = self._stage(16, 32, n, 2)
        self.layer3 = self._stage(32, 64, n, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs, outputs, blocks, stride):
        first = BasicBlock(inputs, outputs, stride)
        return nn.Sequential(first, *[BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)])

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(self.pool(x), 1))


class CifarResNet18(nn.Module):
    """ResNet-18 for 32 x 32 images: a stem of 3 x 3 pixels without pooling, as FRanDI's ablations have it."""

    widths = (64, 128, 256, 512)

    def __init__(self, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        inputs = 64
        for k, width in enumerate(self.widths, 1):
            blocks = BasicBlock(inputs, width, 1 if k == 1 else 2, True), BasicBlock(width, width, 1)
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
            inputs = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(self.normalize(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.flatten(self.pool(x), 1))


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, relu=True) -> list[nn.Module]:
    """Convolution without bias, BatchNorm, and ReLU if asked for."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers + [nn.ReLU()] * relu


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


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_MODELS = ("resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "efficientnet_b0")
"""Networks of torchvision that are known by name: 1,000 classes, images of 224 x 224."""


def _torchvision_models():
    from . import torchvision_shim

    torchvision_shim.install()
    from torchvision import models

    return models


class FromTorchvision(nn.Module):
    """A network of torchvision behind its input normalisation; `network` has torchvision's own key names."""

    def __init__(self, name: str, classes: int = 1000, mean=IMAGENET_MEAN, std=IMAGENET_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = _torchvision_models().get_model(name, weights=None, num_classes=classes)

    def forward(self, x):
        return self.network(self.normalize(x))


IMAGENET_MODELS = (*TORCHVISION_MODELS, "efficientnet_lite0")
"""Networks of 1,000 classes and images of 224 x 224."""
SEGMENTERS = {"segmenter": 64, "deeplabv3plus": 512}
"""Networks that label pixels (datafree.segmentation), and the side of their images."""


def image_size(name: str) -> int | None:
    """Side of the images that a network was made for; None where it is that of CIFAR-10 and its like."""
    return 224 if name in IMAGENET_MODELS else SEGMENTERS.get(name)


def _kept_in(module: str, name: str):
    """Builds a network of another module of this package, which is imported when that happens."""
    return lambda **settings: getattr(import_module(f".{module}", __package__), name)(**settings)


def torchvision_state(name: str) -> dict[str, torch.Tensor]:
    """The weights that torchvision trained on ImageNet, fetched or from its cache."""
    try:
        return _torchvision_models().get_model(name, weights="DEFAULT").state_dict()
    except Exception as error:
        raise DataFreeError(
            f"torchvision's weights of '{name}' could not be fetched ({str(error).strip().splitlines()[0]}); "
            "they need a network the first time, or give weights=PATH of a file fetched elsewhere."
        ) from None


ARCHITECTURES = {
    "resnet20": lambda **k: CifarResNet(20, **k),
    "resnet32": lambda **k: CifarResNet(32, **k),
    "resnet44": lambda **k: CifarResNet(44, **k),
    "resnet56": lambda **k: CifarResNet(56, **k),
    "resnet18_cifar": CifarResNet18,
    "slim_vgg": SlimVGG,
    "mobilenet_v2_small": SmallMobileNetV2,
    "efficientnet_lite0": _kept_in("efficientnet", "EfficientNetLite0"),
    "segmenter": _kept_in("segmentation", "Segmenter"),
    "deeplabv3plus": _kept_in("segmentation", "DeepLabV3Plus"),
    **{name: partial(FromTorchvision, name) for name in TORCHVISION_MODELS},
}
"""Everything `build` and `load` know. Those with a file in data_stubs/models need no `weights`; nor does
efficientnet_lite0, whose weights come as a package."""


def known(name: str) -> str:
    """`name`, if it is one of ARCHITECTURES."""
    if name not in ARCHITECTURES:
        raise DataFreeError(f"model '{name}' is not known; choose one of {', '.join(ARCHITECTURES)}.")
    return name


def build(name: str, **settings) -> nn.Module:
    """A fresh network with random weights."""
    return ARCHITECTURES[known(name)](**settings)


def _torch_file(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DataFreeError(
            f"weights file '{path}' cannot be read as plain tensors ({reason}); it is corrupt or holds Python "
            "objects that could run code. Give a state dict saved with torch.save or safetensors."
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors, .pt, .pth or .th; never runs code from the file; strips 'module.'."""
    path = Path(path)
    if not path.is_file():
        raise DataFreeError(f"weights file '{path}' does not exist; give the path of a .safetensors, .pt or .th file.")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except Exception as error:
            raise DataFreeError(f"weights file '{path}' is not a valid safetensors file ({error}).") from None
    else:
        state = _torch_file(path)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise DataFreeError(f"weights file '{path}' holds no state dict (names to tensors).")
    return {key.removeprefix("module."): value for key, value in state.items()}


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise if the file's SHA-256 is not the expected one."""
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != expected.lower():
        raise DataFreeError(
            f"'{path}' has SHA-256 {found[:16]}..., expected {expected[:16]}...: the file is corrupt or was replaced. "
            "Fetch it again, or give the SHA-256 of the file you mean."
        )


def load_state(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> nn.Module:
    """Copy a state dict into `model`, naming what is missing, unexpected or of another shape."""
    own = model.state_dict()
    if hasattr(model, "network") and not any(k.startswith("network.") for k in state):
        state = {f"network.{k}": v for k, v in state.items()}
    state = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()}
    optional = {k for k in own if k.startswith("normalize.") or k.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(state) - optional)
    unexpected = sorted(set(state) - set(own))
    shapes = [k for k in state if k in own and own[k].shape != state[k].shape]
    for what, names in (("lacks", missing), ("has unexpected", unexpected), ("has other shapes for", shapes)):
        if names:
            raise DataFreeError(
                f"weights from {source} do not fit {type(model).__name__}: the file {what} {', '.join(names[:3])}"
                f"{' and others' if len(names) > 3 else ''}. Check the model name and the number of classes."
            )
    model.load_state_dict(state, strict=False)
    bad = [k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise DataFreeError(f"weights from {source} hold NaN or infinity in {bad[0]}; the checkpoint is damaged.")
    return model


def _check_normalisation(settings: dict) -> None:
    given = [settings[name] for name in ("mean", "std") if settings.get(name) is not None]
    if not given:
        return
    numbers = [float(v) for triple in given for v in triple]
    if len(given) != 2 or len(numbers) != 6 or not all(map(math.isfinite, numbers)) or min(numbers[3:]) <= 0:
        raise DataFreeError(
            "mean and std must be given together, each three numbers (red, green, blue), std above zero."
        )


def _from_package(**settings) -> nn.Module:
    from . import efficientnet

    path = efficientnet.weights_file()
    check_sha256(path, efficientnet.SHA256)
    return load_state(
        build("efficientnet_lite0", **settings), efficientnet.renamed(read_state(path)), f"'{path}'"
    ).eval()


def _embedded(name: str, trained_on: str, suffix: str, missing: str) -> Path:
    folder = "models" if trained_on == "cifar10" else f"models/{trained_on}"
    return stub_path(f"{folder}/{name}{suffix}", missing=missing)


def classes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many classes the last linear layer of a state dict tells apart; nothing where there is none."""
    biases = {k.removesuffix("bias") + "weight": len(v) for k, v in state.items() if k.endswith("bias") and v.ndim == 1}
    rows = [len(v) for k, v in sorted(state.items()) if v.ndim == 2 and biases.get(k) == len(v)]
    return {"classes": rows[-1]} if rows else {}


def load(
    name: str, weights: str | Path | None = None, *, sha256: str | None = None, trained_on: str = "cifar10", **settings
) -> nn.Module:
    """A trained network in evaluation mode.

    Args:
        name: one of ARCHITECTURES.
        weights: a state dict's path; None takes the embedded weights of data_stubs/models (of efficientnet_lite0:
            those of its package); 'torchvision' those that torchvision fetches (TORCHVISION_MODELS only).
        sha256: expected checksum of `weights`; the embedded files are always checked.
        trained_on: which embedded weights: of CIFAR-10, or of a folder of data_stubs/models.
        settings: `classes` (default: as many as the weights have), and `mean` and `std` of the input normalisation.
    """
    known(name)
    _check_normalisation(settings)
    if str(weights) == "torchvision":
        return _of_torchvision(name, **settings)
    if weights is None and name == "efficientnet_lite0":
        return _from_package(**settings)
    if weights is None:
        of = "" if trained_on == "cifar10" else f" of {trained_on}"
        missing = f"model '{name}' has no embedded weights{of}; give weights=PATH"
        path = verified(_embedded(name, trained_on, ".safetensors", missing))
    else:
        path = Path(weights)
    if sha256 and path.is_file():
        check_sha256(path, sha256)
    state = read_state(path)
    carried = {"normalize.mean", "normalize.std"} <= set(state)
    if not carried and weights is not None and "mean" not in settings and name not in IMAGENET_MODELS:
        raise DataFreeError(
            f"weights '{path}' carry no input normalisation; give mean=(...) and std=(...) as used when it was trained."
        )
    model = build(name, **(classes_of(state) | settings))
    own = {k: v.clone() for k, v in model.normalize.state_dict().items()} if "mean" in settings else {}
    load_state(model, state, f"'{path}'")
    if any(not torch.allclose(v, model.normalize.state_dict()[k]) for k, v in own.items()):
        raise DataFreeError(
            f"weights '{path}' carry their own input normalisation, another than mean and std given; leave these out."
        )
    return model.eval()


def _of_torchvision(name: str, **settings) -> nn.Module:
    if name not in TORCHVISION_MODELS:
        raise DataFreeError(
            f"torchvision has no weights for '{name}'; it has them for {', '.join(TORCHVISION_MODELS)}."
        )
    return load_state(build(name, **settings), torchvision_state(name), "torchvision").eval()


def training_record(name: str, trained_on: str = "cifar10") -> dict:
    """What made the embedded weights: command, parameters, seed, commit, log and final accuracy."""
    path = _embedded(name, trained_on, ".json", f"model '{name}' has no training record")
    return json.loads(path.read_text())


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names and bytes of the whole state: equal only if nothing moved."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
    return digest.hexdigest()
