"""Fixtures that several test files share: a tiny network, a folder of images, a sealed copy of the embedded files."""

import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from datafree import cli, models, paths

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Tiny(nn.Module):
    """Normalisation, convolution, BatchNorm, ReLU, linear layer: everything the methods look for, in milliseconds."""

    def __init__(self, classes: int = 10, mean=models.CIFAR_MEAN, std=models.CIFAR_STD):
        super().__init__()
        self.normalize = models.Normalize(mean, std)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.relu(self.bn(self.conv(self.normalize(x))))), 1))


@pytest.fixture
def tiny(monkeypatch):
    """The class Tiny, known to the library as model 'tiny'."""
    monkeypatch.setitem(models.ARCHITECTURES, "tiny", Tiny)
    torch.manual_seed(0)
    return Tiny


def write_images(root, count: int = 8, size: int = 8, classes=("dark", "light"), seed: int = 0) -> None:
    """ROOT/CLASS/NN.png: noise around one brightness a class."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(60 + 70 * k, 90 + 70 * k, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")


@pytest.fixture
def folder(tmp_path):
    """A data set with a train and a test split: 2 classes, 16 and 8 images of 8 x 8."""
    write_images(tmp_path / "set" / "train", 8)
    write_images(tmp_path / "set" / "test", 4, seed=1)
    return tmp_path / "set"


@pytest.fixture
def forget():
    """Drop remembered checksums, before and after."""

    def clear():
        paths._checksums.cache_clear()
        paths._verify.cache_clear()

    clear()
    yield clear
    clear()


@pytest.fixture
def stubs(tmp_path, monkeypatch, forget):
    """data_stubs as a copy that a test may damage; the library reads it in place of the real one."""
    copy = tmp_path / "data_stubs"
    shutil.copytree(paths.STUBS, copy, ignore=shutil.ignore_patterns("*.resume", ".*"))
    monkeypatch.setattr(paths, "STUBS", copy)
    paths.seal()
    return copy


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datafree", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def with_statistics(net, side: int = 32, batch: int = 4, seed: int = 0):
    """`net` in evaluation mode, its BatchNorm layers with random scale (a third negative), shift and measured statistics."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms:
        sign = torch.where(torch.rand(norm.num_features, generator=generator) < 1 / 3, -1.0, 1.0)
        norm.weight.data = sign * (0.3 + torch.rand(norm.num_features, generator=generator))
        norm.bias.data = 0.5 * torch.randn(norm.num_features, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        net.eval()
        for norm in norms:
            norm.train()
        net(torch.rand(batch, 3, side, side, generator=generator))
    return net.eval()
