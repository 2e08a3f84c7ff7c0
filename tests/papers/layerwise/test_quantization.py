"""Layer-Wise Data-Free CNN Compression, section III-C: whole networks."""

import pytest
import torch
from conftest import OWN_NETWORKS, network_named, uneven_network, with_inputs_and_outputs
from torch import nn

import datafree
from datafree.baselines import dfq
from datafree.config import validate
from datafree.core.flops import weight_bytes
from datafree.core.graph import trace
from datafree.core.quantized import QuantizedLayer, QuantizedSum, Rounder
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.layerwise import equalization, quantization


def config(**changes):
    return quantization.LayerWise(**{"samples": 500, "grid": 20} | changes)


def measure(layer, args):
    layer.set_range(args[0].min(), args[0].max())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small", "mobilenet_v2", "efficientnet_b0"])
def test_many_bits_leave_the_network_as_it_is(name):
    """With 16 bits and the ranges of the real inputs little is lost: every other step keeps the function."""
    net, side = network_named(name), 32 if name in OWN_NETWORKS else 64
    before = state_hash(net)
    student, report = quantization.compress(
        net, config(weight_bits=16, act_bits=16, absorb=False, correct=False, ranges="extremes")
    )
    assert state_hash(net) == before and report["method_seconds"] > 0
    kinds = [type(m) for m in student.modules()]
    assert kinds.count(QuantizedLayer) == len(trace(net).layers)
    x = torch.rand(2, 3, side, side)
    for layer in student.modules():  # ranges of imitated inputs are not the point here
        if isinstance(layer, Rounder):
            layer.register_forward_pre_hook(measure)
    with torch.no_grad():
        a, b = student(x), net(x)
    assert ((a - b).norm() / b.norm()) < 0.03


@pytest.mark.parametrize("ranges", ["search", "six_sigma", "extremes"])
def test_inputs_lie_on_levels_and_ranges_hold_them(ranges):
    net = uneven_network(double=False)
    student, _ = quantization.compress(net, config(weight_bits=5, act_bits=4, ranges=ranges))
    names = [f"{n}.inner" for n, m in student.named_modules() if isinstance(m, QuantizedLayer)]
    _, seen = with_inputs_and_outputs(student, torch.rand(4, 3, 16, 16), names)
    for name, (value, _) in seen.items():
        assert len(value.unique()) <= 16
        assert len(student.get_submodule(name).weight.unique()) <= 32


@pytest.mark.parametrize("inputs", ["before_buffers", "behind_buffers"])
def test_buffers_stay_with_rounded_layers(inputs):
    net = uneven_network(nn.SiLU, double=False)
    student, report = quantization.compress(net, config(weight_bits=12, act_bits=12, absorb=False, inputs=inputs))
    buffered = [m for m in student.modules() if isinstance(m, equalization.BufferedLayer)]
    rounded = [m for m in student.modules() if isinstance(m, QuantizedLayer)]
    assert len(buffered) == 5 and len(rounded) == 5
    outer, inner = (rounded, buffered) if inputs == "before_buffers" else (buffered, rounded)
    assert [m.inner for m in outer] == inner
    assert weight_bytes(student) < weight_bytes(net)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        assert ((student(x) - net(x)).norm() / net(x).norm()) < 0.3


def test_pixels_set_the_range_of_the_first_layer_only():
    net = network_named("resnet20")
    a, b = (quantization.compress(net, config(first=first))[0] for first in ("normal", "pixels"))
    layers = [[m for m in s.modules() if isinstance(m, QuantizedLayer)] for s in (a, b)]
    x = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    ends = net.normalize(x).amin(), net.normalize(x).amax()
    torch.testing.assert_close((layers[1][0].low, layers[1][0].high), ends)
    assert layers[0][0].low < ends[0] and layers[0][0].high > ends[1]
    assert all(torch.equal(p.low, q.low) and torch.equal(p.high, q.high) for p, q in zip(layers[0][1:], layers[1][1:]))


def test_setting_ranges_again_after_the_correction_changes_nothing():
    net = uneven_network(double=False)
    wiring = trace(net)
    ready, moments, _ = quantization.equalized(net, wiring, config())
    student = quantization.rounded(ready, wiring, config(weight_bits=4))
    quantization.set_ranges(student, wiring, moments, config())
    before = [b.clone() for n, b in student.named_buffers() if n.endswith(("low", "high"))]
    dfq.correct_biases(student, ready, wiring, moments)
    quantization.set_ranges(student, wiring, moments, config())
    after = [b for n, b in student.named_buffers() if n.endswith(("low", "high"))]
    assert all(map(torch.equal, before, after)) and len(before) == 10


def test_correction_brings_outputs_nearer():
    net = network_named("mobilenet_v2_small")
    x = torch.rand(16, 3, 32, 32)
    with torch.no_grad():
        gaps = [
            (quantization.compress(net, config(weight_bits=4, act_bits=8, correct=c))[0](x) - net(x)).mean(0).norm()
            for c in (False, True)
        ]
    assert gaps[1] < gaps[0]


def test_compress_reports_what_it_costs():
    net = network_named("slim_vgg")
    result = datafree.compress(net, config(weight_bits=4, act_bits=4))
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    biases = sum(m.weight.shape[0] for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert result.report["bytes"] == weights / 2 + 4 * biases, "BatchNorm is gone, each layer has a bias"
    assert result.report["macs"] == result.report["macs_float"] and result.report["not_handled"] == []
    with pytest.raises(DataFreeError, match="uses no images"):
        datafree.compress(net, config(), generated(torch.rand(4, 3, 32, 32), "x"))


def test_wrong_settings_are_refused():
    for values, words in (({"weight_bits": 1}, "weight_bits"), ({"ranges": "best"}, "ranges"), ({"bits": 3}, "bits")):
        with pytest.raises(DataFreeError, match=words):
            validate(quantization.LayerWise, values)


@pytest.mark.parametrize("ranges", ["search", "six_sigma"])
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small"])
def test_additions_put_out_levels_unless_they_are_left_in_float(name, ranges):
    net = network_named(name)
    student, _ = quantization.compress(net, config(weight_bits=4, act_bits=4, ranges=ranges))
    names = [n for n, m in student.named_modules() if isinstance(m, QuantizedSum)]
    assert len(names) == len(trace(net).sums()) > 4
    _, seen = with_inputs_and_outputs(student, torch.rand(4, 3, 32, 32), names)
    assert all(len(out.unique()) <= 16 < len(value.unique()) for value, out in seen.values())
    left, _ = quantization.compress(net, config(weight_bits=4, act_bits=4, ranges=ranges, sums="float"))
    assert not any(isinstance(m, QuantizedSum) for m in left.modules())
    ends = student.state_dict()
    assert all(torch.equal(value, ends[key]) for key, value in left.state_dict().items())


def test_a_network_with_rounded_sums_is_read_back():
    net = network_named("resnet20")
    done = datafree.compress(net, config(weight_bits=5, act_bits=5), shape=(3, 32, 32))
    again = quantization.without_ranges(net, config(weight_bits=5, act_bits=5))
    again.load_state_dict(done.model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(x), done.model(x))


def test_inputs_rounded_behind_the_buffers_are_what_caps_give():
    """One grid a tensor and no factor between: the form that integers can run."""
    net = uneven_network(nn.ReLU6, double=False)
    graph = trace(net)
    student, _ = quantization.compress(net, config(weight_bits=6, act_bits=6, inputs="behind_buffers"))
    found = equalization.equalize(net, graph=graph)
    caps = equalization.capped(student, graph, found)
    assert not any(isinstance(m, equalization.BufferedLayer) for m in caps.modules())
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        a, b = caps(x), student(x)
    assert (a - b).norm() / b.norm() < 0.05, "up to values that lie on the border of two levels"


@pytest.mark.parametrize("absorb", [False, True])
def test_caps_keep_the_function_and_lose_little_at_many_bits(absorb):
    """No buffer is left; absorption moves caps and means down together."""
    net = uneven_network(nn.ReLU6, double=False)
    settings = config(inputs="caps", absorb=absorb, weight_bits=16, act_bits=16, ranges="extremes", samples=4000)
    ready = quantization.equalized(net, trace(net), settings)
    assert not any(isinstance(m, equalization.BufferedLayer | nn.ReLU6) for m in ready.model.modules())
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        wanted, got = net(x), ready.model(x)
        rounded = quantization.compress(net, settings)[0](x)
    assert (got - wanted).norm() / wanted.norm() < (0.3 if absorb else 1e-5)
    assert (rounded - got).norm() / got.norm() < 0.3


def test_a_cap_moves_down_with_what_is_absorbed():
    net = uneven_network(nn.ReLU6, double=False)
    net[1].bias.data.fill_(4.0), net[1].weight.data.fill_(0.1)  # three deviations below the mean stay above zero
    caps = {}
    for absorb in (False, True):
        ready = quantization.equalized(net, trace(net), config(inputs="caps", absorb=absorb))
        caps[absorb] = ready.model.get_submodule("2").cap
        with torch.no_grad():
            caps[absorb, "value"] = ready.model[:3](torch.rand(4, 3, 16, 16)).amin()
    assert (caps[True] < caps[False]).all() and (caps[True] > 0).all() and caps[True, "value"] >= 0
