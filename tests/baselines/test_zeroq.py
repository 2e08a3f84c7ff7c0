"""zeroq: the distance of statistics, and images that lower it."""

import pytest
import torch
from conftest import Tiny, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.baselines import zeroq
from datafree.core import batchnorm
from datafree.networks.blocks import Normalize, normalization
from datafree.networks.weights import state_hash


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def quick(**changes):
    return zeroq.ZeroQConfig(**({"steps": 40, "batch": 16} | changes))


def test_distance_is_zero_only_where_means_and_deviations_agree(net):
    stored = batchnorm.stored(net)
    assert zeroq.distance(stored, stored).item() == pytest.approx(0, abs=1e-9)
    moved = [(mean + 2, (var.sqrt() + 3).square()) for mean, var in stored]
    assert zeroq.distance(moved, stored).item() == pytest.approx(len(stored) * (4 + 9), rel=1e-4)


def test_distilled_images_come_nearer_and_the_network_stays(net):
    before = state_hash(net)
    images, history = zeroq.distilled_images(net, quick(), (3, 8, 8))
    assert images.pixels.shape == (16, 3, 8, 8) and history[-1] < 0.3 * history[0]
    assert images.classes == [str(k) for k in range(10)]
    assert state_hash(net) == before
    again, _ = zeroq.distilled_images(net, quick(), (3, 8, 8))
    assert torch.equal(images.pixels, again.pixels)
    start, _ = zeroq.distilled_images(net, quick(steps=1, rate=1e-9), (3, 8, 8))
    mean, std = normalization(net)
    torch.testing.assert_close(start.pixels.mean((0, 2, 3)), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(start.pixels.std((0, 2, 3)), std, atol=0.05, rtol=0)


def test_what_cannot_work_is_refused(net):
    with pytest.raises(DataFreeError, match="has no BatchNorm"):
        zeroq.distilled_images(nn.Sequential(Normalize(), nn.Conv2d(3, 2, 3)), quick(), (3, 8, 8))
    net.conv.weight.data.fill_(float("nan"))
    with pytest.raises(DataFreeError, match="ZeroQ's distillation diverged"):
        zeroq.distilled_images(net, quick(), (3, 8, 8))
