"""One pass: it leaves alone what is not damaged, and brings what is damaged nearer to the network as it was."""

import copy

import pytest
import torch
from conftest import SmallNet, with_statistics
from torch import nn

from datafree.beyond.one_pass import OnePass, PassConfig, thinned
from datafree.core import quantized
from datafree.data.images import generated
from datafree.networks.weights import load_network
from datafree.papers.frandi.factorization import Factorizer

SHAPE = (3, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8)


@pytest.fixture
def images():
    return generated(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(1)), "noise")


@torch.no_grad()
def distance(student, net, images):
    x = images.floats()
    return ((student.eval()(x) - net(x)).norm() / net(x).norm()).item()


def hooks_of(net):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in net.modules())


def test_what_is_not_damaged_stays(net, images):
    before = copy.deepcopy(net.state_dict())
    student = OnePass(copy.deepcopy(net), net, images).run()
    assert distance(student, net, images) < 1e-4
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert hooks_of(student) == hooks_of(net) == 0


def test_sixteen_bits_and_full_ranks_stay_too(net, images):
    assert distance(OnePass(quantized.prepare(net, 16, 16), net, images).run(), net, images) < 1e-3
    factors = Factorizer(net, SHAPE)
    full = {name: layer.full_rank for name, layer in factors.layers.items()}
    assert distance(OnePass(factors.network(full), net, images).run(), net, images) < 1e-3


def test_of_two_channels_that_are_alike_one_goes(net, images):
    first, norm = net.body[3], net.body[4]
    for values in (first.weight.data, norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        values[5] = values[2]
    student, kept = thinned(net, images, 1 / 8, damping=1e-3)
    gone = set(range(8)) - set(kept["body.3"].tolist())
    assert len(gone) == 1 and gone < {2, 5}
    assert student.body[3].out_channels == student.body[6].in_channels == 7 and torch.equal(
        kept["body.4"], kept["body.3"]
    )


def rounded(net):
    return quantized.prepare(net, 3, 8), {}


def split(net):
    factors = Factorizer(net, SHAPE)
    return factors.network(factors.uniform(1.5)), {}


DAMAGES = {"rounded": rounded, "split": split}
NOTHING = PassConfig(refit=False, least=False, align=False)


@pytest.mark.parametrize("name", DAMAGES)
def test_each_part_brings_the_outputs_nearer(name, net, images):
    def found(config):
        student, kept = DAMAGES[name](net)
        return distance(OnePass(student, net, images, config, kept=kept).run(), net, images)

    trusting = {"ridge": 0.1, "damping": 0.1}  # these are the images that it is judged on
    assert found(PassConfig(**trusting)) < 0.8 * found(NOTHING)
    assert found(PassConfig(**trusting, align=False, refit=False)) < found(NOTHING)


def test_thinned_networks_come_nearer_and_depthwise_layers_are_handled(images):
    net = load_network("mobilenet_v2_small")
    x = generated(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)), "noise")
    student, kept = thinned(net, x, 0.3)
    bare = distance(OnePass(copy.deepcopy(student), net, x, NOTHING, kept=kept).run(), net, x)
    assert distance(OnePass(student, net, x, kept=kept).run(), net, x) < 0.5 * bare


def test_rounding_holds_the_ranges_that_it_chose(net, images):
    student = OnePass(quantized.prepare(net, 2, 8), net, images).run()
    for _, layer in quantized.quantized_layers(student):
        torch.testing.assert_close(layer.quantized_weight().detach(), layer.core.weight.detach())
        assert not isinstance(layer.core, nn.Conv2d) or all(len(row.unique()) <= 4 for row in layer.core.weight)
