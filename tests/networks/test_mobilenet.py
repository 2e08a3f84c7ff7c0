"""MobileNetV1 and the ImageNet weights that others trained."""

import pytest
import torch

from datafree.core.flops import count_macs, count_parameters
from datafree.core.graph import trace
from datafree.core.metrics import top1
from datafree.data.sources import load_images
from datafree.networks import mobilenet
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network, image_size

NAME = "mobilenet_v1_0.25"


def test_it_has_the_size_that_is_published():
    """Howard et al., table 7: 0.5 million parameters and 41 million multiplications at a quarter of the width."""
    net = build_network(NAME)
    assert count_parameters(net) == pytest.approx(0.47e6, rel=0.01) and image_size(NAME) == 224
    assert count_macs(net, (3, 224, 224)) == pytest.approx(41e6, rel=0.02)


def test_the_graph_handles_every_layer():
    found = trace(build_network(NAME))
    assert not found.problems() and len(found.layers) == 28 and len(found.neighbours()) == 27


def test_names_are_changed_by_the_order_of_layers():
    own = build_network(NAME).state_dict()
    state = {
        "conv1.weight": own["features.1.weight"],
        "conv_dw_2_bn.bias": torch.zeros(16),
        "conv_preds.bias": torch.ones(9),
    }
    found = mobilenet.renamed(state | {"conv_preds.weight": torch.zeros(9, 256, 1, 1)})
    assert set(found) == {"features.1.weight", "features.12.bias", "linear.bias", "linear.weight"}
    assert found["linear.weight"].shape == (9, 256)
    assert own["features.12.bias"].shape == (16,) and own["features.11.weight"].shape == (16, 1, 3, 3)


def test_the_weights_know_real_photographs(shared):
    """Over all 1,000 classes; 53.7 % of 300 images of these ten classes were right for those who gave the weights."""
    net, images = load_network(NAME, NAME), load_images("imagenet-val", "test", size=224)
    assert top1(net, images.per_class(10)) == pytest.approx(53.7, abs=12)
