"""The wiring of networks: pairs, feeds, folding, and what is named as not handled."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import OTHER_NETWORKS, OWN_NETWORKS, network_named, with_inputs_and_outputs
from torch import nn

from datafree.core.graph import Layer, Pair, fold_all, input_moments, inputs_of, trace
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash

PAIRS = {  # chains between layers that mix channels, counted on the architectures' own tables
    "resnet20": 9, "resnet44": 21, "slim_vgg": 8, "mobilenet_v2_small": 10, "resnet18": 8, "resnet50": 32,
    "mobilenet_v2": 20, "vgg16_bn": 14, "densenet121": 58,
}  # fmt: skip


@pytest.fixture(scope="module", params=OWN_NETWORKS + OTHER_NETWORKS)
def case(request):
    """(name, network with statistics, an input, its graph)."""
    net = network_named(request.param)
    side = 32 if request.param in OWN_NETWORKS else 64
    return request.param, net, torch.rand(2, 3, side, side), trace(net)


def test_layers_come_in_the_order_they_run_and_all_are_there(case):
    _, net, x, wiring = case
    names = [layer.name for layer in wiring.layers]
    order = []
    handles = [net.get_submodule(n).register_forward_hook(lambda *_, n=n: order.append(n)) for n in names]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    assert names == order
    every = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and not n.startswith("aux")}
    assert every == set(names)


def test_number_of_pairs(case):
    name, _, _, wiring = case
    if name in PAIRS:
        assert len(wiring.pairs()) == PAIRS[name]
    assert sum(1 + len(p.middle) for p in wiring.pairs()) <= len(wiring.neighbours())


def test_a_channel_of_the_first_layer_reaches_only_its_columns_of_the_last(case):
    """With these columns set to zero, nothing behind depends on the channel: in all pairs at once."""
    _, net, x, wiring = case
    cut = copy.deepcopy(net)
    handles, generator = [], torch.Generator().manual_seed(1)
    for pair in wiring.pairs():
        c = int(torch.randint(wiring.layer(pair.first).outputs, (1,), generator=generator))
        last = cut.get_submodule(pair.last)
        if wiring.layer(pair.last).kind == "grouped":
            continue
        last.weight.data[:, c * pair.positions : (c + 1) * pair.positions] = 0

        def disturb(_module, _args, out, c=c):
            out = out.clone()
            out[:, c] = 3 * out[:, c] + 1
            return out

        handles.append((cut.get_submodule(pair.first), disturb))
    with torch.no_grad():
        before = cut(x)
        for module, hook in handles:
            module.register_forward_hook(hook)
        after = cut(x)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * before.abs().max().item())
    assert handles


def test_feeds_are_the_inputs_of_their_layers(case):
    """The tree, evaluated on what its leaves really were, is the layer's real input."""
    _, net, x, wiring = case
    feeds = {layer.name: wiring.feeding(layer.name) for layer in wiring.layers}
    leaves = {leaf.name for feed in feeds.values() for leaf in feed.leaves() if leaf.kind in ("norm", "layer")}
    _, seen = with_inputs_and_outputs(net, x, leaves | set(feeds))
    first = seen[wiring.layers[0].name][0]
    for name, feed in feeds.items():
        with torch.no_grad():
            value = feed.value(lambda leaf: (first if leaf.kind == "input" else seen[leaf.name][1]).clone())
        real = seen[name][0]
        torch.testing.assert_close(value.reshape(real.shape), real, rtol=1e-5, atol=1e-6)


KEPT = {"densenet121": 62, "googlenet": 2}
"""BatchNorm layers that no single convolution feeds: norm1 of 58 layers, 3 transitions and the last; unused heads."""


def test_folding_keeps_the_function_and_the_names(case):
    name, net, x, wiring = case
    net, x = copy.deepcopy(net).double(), x.double()
    folded = fold_all(net, wiring)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == KEPT.get(name, 0)
    with torch.no_grad():
        expected, found = net(x), folded(x)
    assert (found - expected).norm() < 1e-10 * expected.norm()
    assert {n for n, _ in net.named_modules()} == {n for n, _ in folded.named_modules()}


def test_problems_name_the_place():
    words = {"efficientnet_b0": "product of activations.*features.1.0.block.1", "densenet121": "not fused.*norm1"}
    for name, pattern in words.items():
        assert any(re.search(pattern, p) for p in trace(network_named(name)).problems()), name
    assert trace(network_named("resnet20")).problems() == []


class Odd(nn.Module):
    """What a network may do that equalisation cannot follow; `how` chooses."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.b = {"groups": nn.Conv2d(4, 4, 3, groups=2), "up": nn.ConvTranspose2d(4, 4, 3)}.get(
            how, nn.Conv2d(4, 4, 3, padding=1)
        )
        self.c = nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        x = F.batch_norm(x, self.bn.running_mean, self.bn.running_var) if self.how == "functional" else self.bn(x)
        if self.how == "branch" and x.sum() > 0:
            x = -x
        y = self.b(x)
        y = self.b(y) if self.how == "twice" else torch.cat([y, x], 1)[:, :4] if self.how == "cat" else y
        y = y * torch.sigmoid(x) if self.how == "gate" else y
        return self.c(y.mean((2, 3)))


@pytest.mark.parametrize(
    "how, words",
    [
        ("twice", "more than once with the same weights: 'b'"),
        ("functional", "batch_norm is not understood"),
        ("groups", "neither one nor depthwise: 'b'"),
        ("up", "ConvTranspose2d is not understood.*: 'b'"),
        ("cat", "concatenation.*'cat'"),
        ("gate", "product of activations.*'mul'"),
        ("plain", "without BatchNorm feeds it: 'c'"),
    ],
)
def test_what_is_not_handled_is_named(how, words):
    problems = trace(Odd(how)).problems()
    assert any(re.search(words, p) for p in problems), problems


def test_pairs_end_where_channels_mix():
    found = {
        how: [(p.first, p.last) for p in trace(Odd(how)).pairs()] for how in ("plain", "twice", "cat", "gate", "up")
    }
    assert found == {"plain": [("a", "b"), ("b", "c")], "twice": [], "cat": [], "gate": [], "up": []}


def test_a_network_without_fixed_wiring_is_refused():
    with pytest.raises(DataFreeError, match="Odd cannot be traced.*without branches"):
        trace(Odd("branch"))
    with pytest.raises(DataFreeError, match="runs no convolution or linear layer 'd'"):
        trace(Odd("plain")).layer("d")


def test_trace_leaves_the_model_as_it_was():
    net = Odd("plain").train()
    before = state_hash(net)
    trace(net)
    assert net.training and net.bn.training and state_hash(net) == before


def test_functions_and_modules_count_alike():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1)
            self.norm, self.slope, self.c = nn.BatchNorm2d(4), nn.LeakyReLU(0.2), nn.Linear(24, 2)

        def forward(self, x):
            x = F.relu6(self.norm(self.a(2 * x - 1)), inplace=True)
            x = F.max_pool2d(self.slope(self.d(x)), 2).contiguous()
            x = F.adaptive_avg_pool2d(self.b(x).sigmoid_(), 2)
            return self.c(x.view(x.size(0), -1))

    net = Mixed().eval()
    wiring = trace(net)
    assert wiring.layer("a") == Layer("a", "conv", 3, 4, "norm", "relu6")
    assert wiring.layer("d") == Layer("d", "depthwise", 4, 4, None, "leaky_relu")
    first, second = wiring.pairs()
    assert first == Pair("a", ("d",), "b", 1, ("relu6", "leaky_relu")) and not first.homogeneous
    assert second == Pair("b", (), "c", 4, ("sigmoid",), linear=True)
    assert str(wiring.feeding("c")) == "pool(sigmoid(layer b))" and str(wiring.feeding("a")) == "input"
    assert [p.homogeneous for p in wiring.neighbours()] == [False, True, False]


def test_linear_layers_with_batchnorm_fold_too():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    net[2].running_mean.normal_(), net[2].running_var.uniform_(0.5, 2)
    x = torch.randn(6, 3, 2, 2)
    folded = fold_all(net.eval())
    torch.testing.assert_close(folded(x), net(x))
    assert isinstance(folded[2], nn.Identity) and isinstance(net[2], nn.BatchNorm1d)


def test_inputs_and_their_moments_are_those_of_hooks():
    net = Odd("plain").eval()
    x = torch.rand(10, 3, 8, 8)
    seen = inputs_of(net, ["b", "c"], x)
    torch.testing.assert_close(seen["b"], net.bn(net.a(x)))
    torch.testing.assert_close(net.c(seen["c"]), net(x))
    found = input_moments(net, ["b", "c"], generated(x, "x"), batch=4)
    torch.testing.assert_close(found["b"][0], seen["b"].mean((0, 2, 3)))
    torch.testing.assert_close(found["b"][1], seen["b"].var((0, 2, 3), unbiased=False))
    torch.testing.assert_close(found["c"][0], seen["c"].mean(0))
    assert not net.b._forward_pre_hooks
