"""Figures of a network that others trained, on the whole test set of CIFAR-10: runs where these inputs are.

Weights come from the shared inputs (tests/conftest.py), images from DATAFREE_CIFAR10 (a folder with
{train,test}/CLASS/IMAGE).
"""

import pytest
import torch

from datafree import inputs
from datafree.core import batchnorm
from datafree.core.metrics import top1
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network
from datafree.papers.knowledge_within import synthesis


@pytest.fixture(scope="module")
def cache(shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATAFREE_CACHE", str(shared_cache))
        yield shared_cache


@pytest.fixture(scope="module")
def model(cache):
    return load_network("resnet44", "akamaster/resnet44")


@pytest.fixture(scope="module")
def images(cache):
    if not inputs.place("cifar10").exists():
        pytest.skip("skipped: DATAFREE_CIFAR10 is not set")
    whole = load_images("cifar10", "test")
    assert len(whole) == 10_000
    return whole


def test_float_accuracy_of_resnet44(model, images):
    assert top1(model, images) == pytest.approx(93.10, abs=0.02)


def test_divergence_of_the_test_images(model, images):
    assert batchnorm.j_kl(model, images) == pytest.approx(0.022, abs=0.002)


def test_divergence_of_normal_noise(model):
    noise = synthesis.gaussian_images(model, 2000, 32, torch.Generator().manual_seed(0))
    assert batchnorm.j_kl(model, generated(noise, "noise")) == pytest.approx(0.49, abs=0.02)
