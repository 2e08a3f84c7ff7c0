"""EfficientNet-Lite0 and its packaged weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datafree.core.flops import count_macs, count_parameters
from datafree.core.graph import trace
from datafree.core.metrics import outputs
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks import efficientnet
from datafree.networks.weights import load_network, read_state
from datafree.networks.zoo import image_size


@pytest.fixture(scope="module")
def network():
    return load_network("efficientnet_lite0")


def test_it_has_the_size_that_is_published(network):
    assert count_parameters(network) == 4_652_008
    assert count_macs(network, (3, 224, 224)) == pytest.approx(385e6, rel=0.01)
    assert image_size("efficientnet_lite0") == 224


@pytest.mark.parametrize(("kernel", "side"), [(3, 224), (3, 14), (5, 56), (5, 28)])
def test_stride_two_pads_as_tensorflow_does(kernel, side):
    layer = nn.Sequential(*efficientnet.conv_unit(4, 8, kernel, 2, act=False)[:2])
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
    low, high = total // 2, total - total // 2
    expected = F.conv2d(F.pad(x, (low, high, low, high)), layer[1].weight, stride=2)
    torch.testing.assert_close(layer(x), expected)


def test_the_weights_know_photographs(network):
    """The classes that ImageNet has of CIFAR's: most enlarged pictures of dogs, cats and cars are seen as such."""
    images = load_images("cifar10-stub", split="test", size=224)
    dogs = [i for i, label in enumerate(images.labels.tolist()) if images.classes[label] == "dog"][:16]
    seen = outputs(network, images[torch.tensor(dogs)]).argmax(1)
    assert ((seen >= 151) & (seen <= 268)).float().mean() > 0.5


def test_the_graph_handles_every_layer(network):
    found = trace(network)
    assert not found.problems() and len(found.layers) == 50


def test_names_are_changed_in_order_and_other_states_are_left_alone(network):
    theirs = read_state(efficientnet.weights_file())
    ours = efficientnet.renamed(theirs)
    torch.testing.assert_close(ours["linear.bias"], theirs["_fc.bias"])
    torch.testing.assert_close(ours["features.4.body.0.weight"], theirs["_blocks.0._depthwise_conv.weight"])
    assert efficientnet.renamed(ours) is ours


def test_another_number_of_classes_is_refused():
    with pytest.raises(DataFreeError, match="classes"):
        load_network("efficientnet_lite0", classes=10)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(DataFreeError, match="pip install no-such-package"):
        load_network("efficientnet_lite0")
