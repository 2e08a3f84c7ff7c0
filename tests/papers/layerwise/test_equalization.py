"""Layer-Wise Data-Free CNN Compression: fusion, equalisation, imitated inputs."""

import copy

import pytest
import torch
from conftest import (
    OTHER_NETWORKS,
    OWN_NETWORKS,
    network_named,
    seeded,
    uneven_network,
    with_inputs_and_outputs,
    with_statistics,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.config import validate
from datafree.core.batchnorm import Moments
from datafree.core.graph import fold_all, trace
from datafree.errors import DataFreeError
from datafree.papers.layerwise import equalization, generated_inputs

ACTS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Hardswish)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def pair(act=None, last=None):
    torch.manual_seed(0)
    first, last = nn.Conv2d(4, 6, 3).double(), (last or nn.Conv2d(6, 5, 3)).double()
    middle = [act()] if act else []
    return first, last, nn.Sequential(first, *middle, last), torch.randn(2, 4, 9, 9, dtype=torch.float64)


# Equations 1 to 9


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.05, 20) | st.floats(-20, -0.05), min_size=6, max_size=6))
def test_eq1_scaling_inside_a_block_changes_nothing(a):
    conv, _, _, x = pair()
    norm = with_statistics(nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)), side=8)[1].double()
    scaled = nn.Sequential(*equalization.rescale_block(conv, norm, torch.tensor(a, dtype=torch.float64)))
    with torch.no_grad():
        torch.testing.assert_close(scaled(x), norm(conv(x)))


def test_eq1_refuses_zero():
    with pytest.raises(DataFreeError, match="not zero"):
        equalization.rescale_block(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("act, kept", [(nn.ReLU, True), (nn.LeakyReLU, True), (nn.Identity, True), (nn.ReLU6, False), (nn.SiLU, False)])  # fmt: skip
def test_eq2_keeps_the_function_of_homogeneous_activations_only(act, kept):
    first, last, net, x = pair(act)
    expected = net(x)
    equalization.cross_scale(first, last, torch.tensor([0.1, 3, 20, 0.5, 1, 7], dtype=torch.float64))
    assert (distance(net(x), expected) < 1e-12) == kept
    with pytest.raises(DataFreeError, match="above zero"):
        equalization.cross_scale(first, last, -torch.ones(6))


def test_eq3_buffers_of_one_change_nothing_and_others_act_as_written():
    layer = nn.Conv2d(4, 6, 3, groups=2)
    x, buffered = torch.randn(2, 4, 5, 5), equalization.BufferedLayer(layer)
    torch.testing.assert_close(buffered(x), layer(x))
    buffered.v_in.fill_(2), buffered.v_out.fill_(3)
    torch.testing.assert_close(buffered(x), 3 * layer(2 * x))


def test_eqs5_to_9_move_the_factor_from_rows_to_columns_and_the_rest_to_the_buffers():
    torch.manual_seed(0)
    s = torch.tensor([0.5, 2.0, 4.0, 1.0])
    for layer in (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 4)):
        shape = (1, -1) if isinstance(layer, nn.Linear) else (1, -1, 1, 1)
        x = torch.randn(3, 4) if len(shape) == 2 else torch.randn(3, 4, 5, 5)
        expected, plain, buffered = layer(x), copy.deepcopy(layer), equalization.BufferedLayer(copy.deepcopy(layer))
        equalization.scale_rows(plain, s), equalization.scale_rows(buffered, s)
        torch.testing.assert_close(plain(x) * s.view(shape), expected)
        torch.testing.assert_close(buffered(x), expected)
        assert torch.equal(buffered.v_out, s) and torch.equal(buffered.v_in, torch.ones(4))
        plain = copy.deepcopy(layer)
        equalization.scale_columns(plain, s), equalization.scale_columns(buffered, s)
        torch.testing.assert_close(plain(x / s.view(shape)), expected)
        torch.testing.assert_close(buffered(x), expected)
        assert torch.equal(buffered.v_in, 1 / s)
    linear = nn.Linear(8, 3)  # two columns a channel
    x = torch.randn(2, 8)
    expected = linear(x)
    equalization.scale_columns(linear, s)
    torch.testing.assert_close(linear(x / s.repeat_interleave(2)), expected)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_eq4_gives_both_channels_the_geometric_mean(a, b):
    r1, r2 = (torch.tensor([v], dtype=torch.float64) for v in (a, b))
    s = equalization.equalizing_scale(r1, r2)
    torch.testing.assert_close(r1 / s, (r1 * r2).sqrt())
    torch.testing.assert_close(r2 * s, (r1 * r2).sqrt())


def test_eq4_is_one_where_there_is_no_range():
    s = equalization.equalizing_scale(torch.tensor([0.0, 0, 2, 1e-45]), torch.tensor([0.0, 3, 0, 1e30]))
    assert s[:3].tolist() == [1, 1, 1] and torch.isfinite(s).all() and (s > 0).all()


@pytest.mark.parametrize(
    "last", [nn.Conv2d(6, 5, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 3, groups=2)], ids=["plain", "depthwise", "grouped"]
)  # fmt: skip
def test_one_update_levels_the_channels_and_keeps_every_layer(last):
    first, last, net, x = pair(nn.SiLU, copy.deepcopy(last))
    net[0], net[2] = equalization.BufferedLayer(first), equalization.BufferedLayer(last)
    hidden, output = net[0](x), net(x)
    equalization.afcle_step(net[0], net[2])
    torch.testing.assert_close(net[0](x), hidden)
    torch.testing.assert_close(net(x), output)
    rows = equalization.magnitudes(net[0]).amax(2).flatten()
    torch.testing.assert_close(rows, equalization.magnitudes(net[2]).amax(1).flatten())


# Whole networks


@pytest.fixture(scope="module", params=OWN_NETWORKS + OTHER_NETWORKS)
def network(request):
    torch.manual_seed(0)
    side = 32 if request.param in OWN_NETWORKS else 64
    net = network_named(request.param).double()
    return net, trace(net), torch.rand(2, 3, side, side, dtype=torch.float64)


@pytest.mark.parametrize("buffers", ["needed", "always", "never"])
def test_equalisation_keeps_the_function(network, buffers):
    net, wiring, x = network
    found = equalization.equalize(net, equalization.Equalization(buffers=buffers), wiring)
    with torch.no_grad():
        assert distance(found.model(x), net(x)) < 1e-10
    assert found.converged and len(found.buffered) + len(found.plain) + len(found.left) == len(wiring.neighbours())
    assert any(isinstance(m, equalization.BufferedLayer) for m in found.model.modules()) == bool(found.buffered)
    assert found.mean_deviation[-1] < 1e-3 and abs(found.mean_scale[-1] - 1) < 1e-3


@pytest.mark.parametrize("act", ACTS)
def test_with_buffers_every_layer_keeps_its_output_whatever_the_activation(act):
    net, x = uneven_network(act), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    found = equalization.equalize(net, equalization.Equalization(buffers="always"))
    names = ("0", "3", "6", "9", "13")
    (_, before), (_, after) = (with_inputs_and_outputs(model, x, names) for model in (fold_all(net), found.model))
    for name in names:
        torch.testing.assert_close(after[name], before[name])
    assert len(found.buffered) == 4


def test_fast_sweeps_agree_with_the_plain_algorithm():
    net = uneven_network()
    wiring = trace(net)
    fast = equalization.equalize(net, graph=wiring)
    slow = fold_all(net, wiring)
    for _ in fast.mean_scale:
        for p in wiring.neighbours():
            equalization.afcle_step(slow.get_submodule(p.first), slow.get_submodule(p.last))
    for a, b in zip(fast.model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_ranges_get_level():
    net = uneven_network()
    found = equalization.equalize(net)

    def evenness(model):
        ranges = [equalization.magnitudes(model[i]).amax(2).flatten() for i in (0, 3)]
        return torch.cat([r / r.max() for r in ranges]).mean().item()

    assert evenness(found.model) > 1.3 * evenness(fold_all(net))


def test_channels_without_range_stay_finite():
    net = uneven_network()
    net[0].weight.data[2] = 0
    net[3].weight.data[5] = 0
    net[13].weight.data[:, 8:12] = 0
    found, x = equalization.equalize(net), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert all(torch.isfinite(p).all() for p in found.model.parameters())
    torch.testing.assert_close(found.model(x), net(x))
    net[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataFreeError, match="NaN or infinity"):
        equalization.equalize(net)


def test_never_leaves_alone_what_a_factor_cannot_pass():
    net, x = uneven_network(nn.ReLU6), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    found = equalization.equalize(net, equalization.Equalization(buffers="never"))
    assert not found.plain and not found.buffered and len(found.left) == 4
    for a, b in zip(found.model.parameters(), fold_all(net).parameters(), strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), net(x))


def test_buffers_fold_away():
    net, x = uneven_network(nn.SiLU), torch.rand(2, 3, 16, 16, dtype=torch.float64)
    found = equalization.equalize(net)
    plain = equalization.fold_buffers(found.model)
    assert not any(isinstance(m, equalization.BufferedLayer) for m in plain.modules())
    count = [sum(p.numel() for p in m.parameters()) for m in (plain, fold_all(net))]
    assert count[0] == count[1]
    torch.testing.assert_close(plain(x), net(x))


def test_stopping_rule():
    loose, strict = equalization.Equalization(strict=False), equalization.Equalization()
    assert (
        equalization.stops(1.0005, 0.3, loose)
        and not equalization.stops(1.0005, 0.3, strict)
        and equalization.stops(1.0005, 0.0008, strict)
    )
    assert not equalization.stops(1.002, 0.002, loose)
    stopped = equalization.equalize(uneven_network(), equalization.Equalization(max_sweeps=1))
    assert not stopped.converged and len(stopped.mean_scale) == 1
    with pytest.raises(DataFreeError, match="tolerance.*greater than 0"):
        validate(equalization.Equalization, {"tolerance": 0.0})


# Equations 10 to 12


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
        norm = net[int(name)]
        damped = (norm.running_var / (norm.running_var + norm.eps)).sqrt()  # eps makes the deviation a little smaller
        torch.testing.assert_close(out.std((0, 2, 3)), moments[name].var.sqrt() * damped, rtol=1e-2, atol=1e-3)
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
