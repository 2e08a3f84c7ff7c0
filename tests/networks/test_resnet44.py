"""Figures of a network that others trained, on the whole test set of CIFAR-10: runs where these files are.

Weights are looked for in DATAFREE_SHARED (default: the folder `shared` beside the checkout), images in
DATAFREE_CIFAR10 (a folder with test/CLASS/IMAGE); without the latter they are fetched by
`shared/data/get_cifar10.py`, where that script and npm are there.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datafree import files
from datafree.core import batchnorm
from datafree.core.metrics import top1
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network
from datafree.papers.knowledge_within import synthesis

SHARED = Path(os.environ.get("DATAFREE_SHARED", files.ROOT.parent / "shared"))
WEIGHTS = SHARED / "data" / "weights" / "resnet44-014dd654.th"
SCRIPT = SHARED / "data" / "get_cifar10.py"


def there(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"skipped: no such file '{path}'")
    return path


def fetched(folder: Path) -> Path:
    there(SCRIPT)
    if not shutil.which("npm"):
        pytest.skip("skipped: DATAFREE_CIFAR10 is not set, and there is no npm to fetch the images with")
    run = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"skipped: DATAFREE_CIFAR10 is not set, and {SCRIPT.name} could not fetch the images")
    return folder


@pytest.fixture(scope="module")
def model():
    return load_network("resnet44", there(WEIGHTS), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def images(model, tmp_path_factory):
    given = os.environ.get("DATAFREE_CIFAR10")
    root = there(Path(given)) if given else fetched(tmp_path_factory.mktemp("cifar10"))
    whole = load_images(f"folder:{root}", "test")
    assert len(whole) == 10_000
    return whole


def test_float_accuracy_of_resnet44(model, images):
    assert top1(model, images) == pytest.approx(93.10, abs=0.02)


def test_divergence_of_the_test_images(model, images):
    assert batchnorm.j_kl(model, images) == pytest.approx(0.022, abs=0.002)


def test_divergence_of_normal_noise(model):
    noise = synthesis.gaussian_images(model, 2000, 32, torch.Generator().manual_seed(0))
    assert batchnorm.j_kl(model, generated(noise, "noise")) == pytest.approx(0.49, abs=0.02)
