"""Equations 10 to 12: inputs of a layer without data."""

import pytest
import torch
from conftest import (
    network_named,
    seeded,
    uneven_network,
)
from torch import nn

from datafree.core.batchnorm import Moments
from datafree.core.graph import trace
from datafree.errors import DataFreeError
from datafree.papers.layerwise import equalization, generated_inputs


def pair(act=None, last=None):
    torch.manual_seed(0)
    first, last = nn.Conv2d(4, 6, 3).double(), (last or nn.Conv2d(6, 5, 3)).double()
    middle = [act()] if act else []
    return first, last, nn.Sequential(first, *middle, last), torch.randn(2, 4, 9, 9, dtype=torch.float64)


def test_block_outputs_have_the_moments_of_batchnorm():
    beta, gamma = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, -3.0, 0.0])
    x = generated_inputs.block_output(beta, gamma, (2000, 4, 4), seeded())
    torch.testing.assert_close(x.mean((0, 2, 3)), beta, rtol=0.02, atol=0.05)
    torch.testing.assert_close(x.std((0, 2, 3)), gamma.abs(), rtol=0.02, atol=1e-6)
    assert torch.equal(x, generated_inputs.block_output(beta, gamma, (2000, 4, 4), seeded()))


def test_moments_are_those_of_batchnorm_outputs():
    net = uneven_network(double=False)
    wiring, seen = trace(net), {}
    for i in (1, 4, 7):
        net[i].register_forward_hook(lambda _m, _x, out, i=i: seen.__setitem__(str(i), out))
    moments = generated_inputs.stored_moments(net, wiring)
    net(torch.rand(4, 3, 16, 16, generator=_after_statistics()))
    for name, out in seen.items():
        torch.testing.assert_close(out.mean((0, 2, 3)), moments[name][0], rtol=1e-3, atol=5e-3)
        torch.testing.assert_close(out.std((0, 2, 3)), moments[name].var.sqrt(), rtol=1e-2, atol=1e-3)
    assert (net[1].weight < 0).any() and set(moments) == {"1", "4", "7", "9", "13"}
    assert moments["9"][0].eq(0).all() and moments["9"][1].eq(1).all()


def _after_statistics():
    """The seeded of `with_statistics` as it stands before the images of the uneven_network network are drawn."""
    g = seeded()
    for channels in (8, 8, 12):
        torch.rand(channels, generator=g), torch.rand(channels, generator=g), torch.randn(channels, generator=g)
    return g


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small", "resnet18", "densenet121", "googlenet"])
def test_every_layer_gets_an_input_that_it_can_take(name):
    net = network_named(name)
    wiring = trace(net)
    moments = generated_inputs.stored_moments(net, wiring)
    for layer in wiring.layers:
        x = generated_inputs.layer_input(wiring, layer.name, moments, (2, 5, 5), seeded())
        net.get_submodule(layer.name)(x)
        assert torch.isfinite(x).all()
    first = generated_inputs.layer_input(wiring, wiring.layers[0].name, moments, (500, 5, 5), seeded())
    assert first.mean().abs() < 0.02 and (first.std() - 1).abs() < 0.02


def test_sums_and_activations_come_in_the_order_of_the_network():
    net = network_named("resnet20")
    wiring = trace(net)
    moments, name = generated_inputs.stored_moments(net, wiring), "layer1.1.conv1"  # relu(layer1.0.bn2 + relu(bn1))
    x = generated_inputs.layer_input(wiring, name, moments, (4000, 3, 3), seeded())
    noise = seeded()
    parts = [
        generated_inputs.block_output(moments[n].mean, moments[n].var.sqrt(), (4000, 3, 3), noise)
        for n in ("layer1.0.bn2", "bn1")
    ]
    torch.testing.assert_close(x, torch.relu(parts[0] + torch.relu(parts[1])))
    literal = generated_inputs.activation_before_sum(wiring.feeding(name))
    y = generated_inputs.layer_input(wiring, name, moments, (4000, 3, 3), seeded(), feed=literal)
    torch.testing.assert_close(y, torch.relu(parts[0]) + torch.relu(parts[1]))
    z = generated_inputs.layer_input(wiring, name, moments, (4000, 3, 3), seeded(), activation=False)
    torch.testing.assert_close(z, parts[0] + parts[1])


def test_tracked_inputs_are_the_inputs_divided_by_the_scale():
    net = uneven_network(double=False)
    wiring = trace(net)
    moments, found = generated_inputs.stored_moments(net, wiring), equalization.equalize(net, graph=wiring)
    tracked = generated_inputs.tracked_moments(moments, wiring, found)
    for pair in wiring.neighbours():
        a, b = (generated_inputs.layer_input(wiring, pair.last, m, (3, 4, 4), seeded()) for m in (moments, tracked))
        s = found.scales[pair.first].repeat_interleave(pair.positions)
        torch.testing.assert_close(b * s.view(1, -1, *[1] * (b.ndim - 2)), a, rtol=1e-4, atol=1e-6)
    buffered = equalization.equalize(net, equalization.Equalization(buffers="always"), wiring)
    assert all(
        a is b for a, b in zip(generated_inputs.tracked_moments(moments, wiring, buffered).values(), moments.values())
    )


def test_linear_layers_see_one_value_a_column_or_the_pooled_mean():
    net = uneven_network(double=False)
    wiring = trace(net)
    moments = generated_inputs.stored_moments(net, wiring) | {
        "9": Moments(torch.full((6,), 2.0), torch.full((6,), 0.01))
    }
    plain = generated_inputs.layer_input(wiring, "13", moments, (3000, 8, 8), seeded())
    pooled = generated_inputs.layer_input(wiring, "13", moments, (3000, 8, 8), seeded(), pooled=True)
    assert plain.shape == pooled.shape == (3000, 24)
    assert plain.mean().item() == pytest.approx(2, rel=0.01) and pooled.mean().item() == pytest.approx(2, rel=0.01)
    assert pooled.std().item() == pytest.approx(plain.std().item() / 4, rel=0.05)


def test_unknown_feeds_are_refused_with_their_name():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x).flip(1), self.b(x)], 1))

    net = Shuffled()
    wiring = trace(net)
    with pytest.raises(DataFreeError, match="input of 'c'.*flip.*not known"):
        generated_inputs.layer_input(wiring, "c", generated_inputs.stored_moments(net, wiring), (2, 4, 4), seeded())


def test_a_dead_channel_is_known_to_be_constant():
    """Its variance is far below epsilon, so its output is beta, whatever gamma says."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=1e-3), nn.ReLU6())
    net[1].running_var.copy_(torch.tensor([1e-12, 4.0]))
    net[1].weight.data.copy_(torch.tensor([2.0, -2.0]))
    variance = generated_inputs.stored_moments(net, trace(net))["1"].var
    assert variance[0] < 1e-8 and variance[1] == pytest.approx(4, rel=1e-3)
    net[0].weight.data[0] *= 1e-6
    x = torch.randn(500, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    y = net.eval()[:2](x)
    assert y[:, 0].std() < 1e-4 * y[:, 1].std()
