"""Networks by name: sizes, shapes, and unknown names."""

import pytest
import torch

from datafree.core.flops import count_parameters
from datafree.errors import DataFreeError
from datafree.networks.blocks import PadShortcut
from datafree.networks.weights import load_network
from datafree.networks.zoo import ARCHITECTURES, SEGMENTERS, build_network

MEAN_STD = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


CLASSIFIERS = [name for name in ARCHITECTURES if name not in SEGMENTERS]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_builds_and_takes_odd_sizes(name):
    model = build_network(name, classes=7).eval()
    with torch.no_grad():
        for shape in ((2, 3, 32, 32), (1, 3, 33, 47)):
            out = model(torch.rand(shape))
            assert out.shape == (shape[0], 7) and out.isfinite().all()


def test_the_first_layer_normalises():
    model = build_network("resnet20", **MEAN_STD)
    x = torch.tensor(MEAN_STD["mean"]).view(1, 3, 1, 1) + torch.tensor(MEAN_STD["std"]).view(1, 3, 1, 1)
    torch.testing.assert_close(model.normalize(x), torch.ones(1, 3, 1, 1))


def test_the_shortcut_without_parameters_takes_every_second_pixel():
    x = torch.arange(2 * 2 * 5 * 4.0).view(2, 2, 5, 4)
    y = PadShortcut(4, 2)(x)
    assert y.shape == (2, 6, 3, 2)
    assert torch.equal(y[:, 2:4], x[:, :, ::2, ::2])
    assert y[:, :2].abs().sum() == 0 and y[:, 4:].abs().sum() == 0


@pytest.mark.parametrize(("name", "parameters"), [("resnet20", 269_722), ("resnet44", 658_586), ("resnet56", 853_018)])
def test_residual_networks_have_the_size_of_the_paper(name, parameters):
    assert count_parameters(build_network(name)) == parameters


def test_an_unknown_name_lists_the_known_ones():
    for call in (build_network, load_network):
        with pytest.raises(DataFreeError, match="model 'resnet21' is not known; choose one of resnet20"):
            call("resnet21")
