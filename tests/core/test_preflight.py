"""Each fault is refused by name; a sound network passes and is left as it was."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from datafree.core.preflight import checked
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize

SHAPE = (3, 8, 8)


def network(conv=None, head=None, std=(1.0, 1.0, 1.0)):
    first = [Normalize((0.0, 0.0, 0.0), std), conv or nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head or nn.Linear(4, 5)).eval()


def with_value(name, value):
    model = network()
    model.get_submodule(name.rpartition(".")[0]).state_dict()[name.rpartition(".")[2]].flatten()[0] = value
    return model


class Gives(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


FAULTS = {
    "negative variance": (lambda: with_value("2.running_var", -1.0), "'2.running_var' holds a negative variance"),
    "NaN weight": (lambda: with_value("1.weight", float("nan")), "'1.weight' holds NaN"),
    "zero std": (lambda: network(std=(1.0, 0.0, 1.0)), "std of '0'"),
    "half": (lambda: network().half(), "float16"),
    "double": (lambda: network().double(), "float64"),
    "complex": (lambda: network().to(torch.complex64), "complex64"),
    "weight_norm": (lambda: network(weight_norm(nn.Conv2d(3, 4, 3))), "layer '1' computes its weight"),
    "spectral_norm": (lambda: network(spectral_norm(nn.Conv2d(3, 4, 3))), "layer '1' computes its weight"),
    "old weight_norm": (lambda: network(nn.utils.weight_norm(nn.Conv2d(3, 4, 3))), "layer '1' computes its weight"),
    "transposed": (lambda: network(nn.ConvTranspose2d(3, 4, 3)), "layer '1' is of a kind that is not supported"),
    "SyncBatchNorm": (
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(network()),
        "'2' is a SyncBatchNorm, .* make it a BatchNorm2d",
    ),
    "meta": (lambda: network().to("meta"), "sparse or meta"),
    "one channel": (lambda: network(nn.Conv2d(1, 4, 3)), "does not take one batch"),
    "two inputs": (TwoInputs, "does not take one batch"),
    "tuple": (lambda: Gives(lambda x: (x, x)), "gives a tuple"),
    "dict": (lambda: Gives(lambda x: {"out": x}), "gives a dict"),
    "integer scores": (lambda: Gives(lambda x: x.flatten(1).long()), "int64"),
    "three axes": (lambda: Gives(lambda x: x.flatten(2)), "must give float32"),
    "infinite scores": (lambda: Gives(lambda x: x.flatten(1) + float("inf")), "gives NaN or infinity"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused_by_name(fault):
    make, sentence = FAULTS[fault]
    with pytest.raises(DataFreeError, match=sentence):
        checked(make(), SHAPE)


@pytest.mark.parametrize("shape", [(3, 8), (3, 0, 8), (3, -1, 8), (3, 8.0, 8)])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(DataFreeError, match="channels, height, width"):
        checked(network(), shape)


def test_a_sound_network_passes_and_is_left_as_it_was():
    model = network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert checked(model, SHAPE) == (2, 5)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Reads(nn.Module):
    """A module that reads the weight of a layer which it never calls."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(nn.functional.conv2d(x, self.layer.weight).mean((2, 3)))


def test_a_layer_that_is_never_called_is_named():
    model = Reads()
    with pytest.raises(DataFreeError, match="'layer' is not called"):
        checked(model, (3, 4, 4))
    assert not model.layer._forward_pre_hooks
