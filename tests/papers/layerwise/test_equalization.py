"""Layer-Wise Data-Free CNN Compression: fusion, equalisation, imitated inputs."""

import copy

import pytest
import torch
from conftest import (
    OTHER_NETWORKS,
    OWN_NETWORKS,
    network_named,
    uneven_network,
    with_inputs_and_outputs,
    with_statistics,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.config import validate
from datafree.core.graph import fold_all, trace
from datafree.errors import DataFreeError
from datafree.papers.layerwise import equalization

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


def test_caps_take_the_place_of_buffers_around_relu6():
    net = uneven_network(nn.ReLU6).eval()
    graph = trace(net)
    found = equalization.equalize(net, graph=graph)
    capped = equalization.capped(found.model, graph, found)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        assert distance(capped(x), net(x)) < 1e-10
    kinds = [type(m) for m in capped.modules()]
    assert equalization.BufferedLayer not in kinds and nn.ReLU6 not in kinds
    assert kinds.count(equalization.CappedReLU) == len(found.buffered)
    assert any(isinstance(m, equalization.BufferedLayer) for m in found.model.modules()), "the original is left alone"


def test_other_activations_keep_their_buffers():
    net = uneven_network(nn.SiLU).eval()
    found = equalization.equalize(net)
    left = equalization.capped(found.model, trace(net), found)
    before, after = ([type(m) for m in model.modules()] for model in (found.model, left))
    assert before == after and equalization.BufferedLayer in after
    with pytest.raises(DataFreeError, match="no activation module of its own reads layer '13'"):
        trace(net).activation("13")
