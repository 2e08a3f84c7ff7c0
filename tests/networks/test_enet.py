"""ENet: its shape, its wiring, and the weights of others on CamVid."""

import pytest
import torch

from datafree.core import batchnorm
from datafree.core.graph import trace
from datafree.core.metrics import mean_iou
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network, image_shape
from datafree.papers.frandi import factorization, selection


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build_network("enet").eval()


@pytest.mark.parametrize(("rows", "columns"), [(40, 64), (64, 48)])
def test_one_output_a_pixel_for_multiples_of_eight(net, rows, columns):
    with torch.no_grad():
        assert net(torch.rand(2, 3, rows, columns)).shape == (2, 11, rows, columns)


def test_the_wiring_is_read_and_convolutions_are_split_exactly(net):
    assert image_shape("enet") == (3, 360, 480)
    assert len(trace(net).layers) > 80 and len(batchnorm.layers(net)) > 80
    factors = factorization.Factorizer(net, (3, 40, 64))
    x = torch.rand(1, 3, 40, 64)
    with torch.no_grad():
        whole = factors.network({name: layer.full_rank for name, layer in factors.layers.items()})
        torch.testing.assert_close(whole(x), net(x), rtol=1e-3, atol=1e-4)


def test_candidates_are_scored_in_one_pass(net, images_of_noise):
    factors = factorization.Factorizer(net, (3, 40, 64))
    rows = [tuple(layer.full_rank for layer in factors.layers.values()), tuple(1 for _ in factors.layers)]
    same, other = selection.discrepancies(factors, rows, images_of_noise, precision="float32")
    assert same < 1e-3 < other


@pytest.fixture
def images_of_noise():
    return generated(torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(0)), "noise", classes=11)


def test_weights_of_others_label_the_streets(shared):
    found = mean_iou(load_network("enet", "enet_camvid"), load_images("camvid", "test", limit=6))
    assert found > 40
