"""Pruning: which channels stay, and that taking them out equals silencing them, only smaller."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datafree.core import pruning
from datafree.core.flops import count_macs, count_parameters
from datafree.core.graph import trace
from datafree.errors import DataFreeError
from datafree.networks.zoo import build_network


class Chain(nn.Module):
    """Convolution, depthwise convolution, convolution, pooling to 2 x 2, two linear layers."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 6, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.bn2 = nn.BatchNorm2d(6)
        self.project = nn.Conv2d(6, 5, 1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(20, 8)
        self.out = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        x = self.relu(self.bn2(self.depthwise(self.relu(self.bn1(self.expand(x))))))
        x = self.pool(self.relu(self.project(x))).flatten(1)
        return self.out(self.relu(self.hidden(x)))


def random_norms(net, generator):
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            for v in (m.weight.data, m.bias.data, m.running_mean):
                v.copy_(torch.randn(v.shape, generator=generator))
            m.running_var.copy_(0.5 + torch.rand(m.running_var.shape, generator=generator))
    return net.eval()


@pytest.fixture
def net():
    torch.manual_seed(0)
    return random_norms(Chain(), torch.Generator().manual_seed(0))


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def silenced(net, pair, keep):
    """The same network with the inputs of `last` from all other channels set to zero: what removal must equal."""
    silent = copy.deepcopy(net)
    weight = silent.get_submodule(pair.last).weight.data
    gone = torch.ones(weight.shape[1] // pair.positions, dtype=torch.bool)
    gone[keep] = False
    weight[:, gone.repeat_interleave(pair.positions)] = 0
    return silent


@pytest.mark.parametrize("first, count", [("expand", 6), ("project", 5), ("hidden", 8)])
def test_removal_equals_silence(net, x, first, count):
    graph = trace(net)
    pair = next(p for p in pruning.prunable(graph) if p.first == first)
    keep = torch.tensor([0, 2, count - 1])
    smaller = pruning.remove(copy.deepcopy(net), graph, pair, keep)
    torch.testing.assert_close(smaller(x), silenced(net, pair, keep)(x))
    assert count_parameters(smaller) < count_parameters(net)
    assert count_macs(smaller, (3, 8, 8)) < count_macs(net, (3, 8, 8))
    assert smaller.get_submodule(first).weight.shape[0] == 3
    assert "out_features=3" in repr(smaller.get_submodule(first)) or ", 3, kernel" in repr(smaller.get_submodule(first))


def test_a_whole_network_loses_channels_everywhere(x):
    net = build_network("mobilenet_v2_small").eval()
    smaller, graph = copy.deepcopy(net), trace(net)
    for pair in pruning.prunable(graph):
        count = graph.layer(pair.first).outputs
        pruning.remove(smaller, graph, pair, torch.arange(count // 2))
    image = torch.rand(2, 3, 32, 32)
    assert smaller(image).shape == net(image).shape
    assert count_macs(smaller) < 0.6 * count_macs(net)
    assert count_parameters(smaller) < 0.6 * count_parameters(net)
    assert not any(len(p) == 0 for p in smaller.parameters()) and all(p.requires_grad for p in smaller.parameters())
    assert trace(smaller).pairs(), "the smaller network can be pruned again"


def test_keeping_all_changes_nothing(net, x):
    graph, same = trace(net), copy.deepcopy(net)
    for pair in pruning.prunable(graph):
        pruning.remove(same, graph, pair, torch.arange(graph.layer(pair.first).outputs))
    assert torch.equal(same(x), net(x))


def test_scores_are_norms_of_filters():
    weight = torch.tensor([[3.0, -4.0], [1.0, 0.0]])
    assert pruning.scores(weight, "l1").tolist() == [7, 1] and pruning.scores(weight, "l2").tolist() == [5, 1]
    with pytest.raises(DataFreeError, match="criterion 'l3'.*l1, l2"):
        pruning.scores(weight, "l3")


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True))
def test_the_asked_share_goes_but_never_all(channels, ratio):
    kept = pruning.kept_count(channels, ratio)
    assert 1 <= kept <= channels
    assert kept == 1 or abs(channels - kept - ratio * channels) <= 0.5 + 1e-9


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.data())
def test_the_largest_stay(values, data):
    count = data.draw(st.integers(1, len(values)))
    score = torch.tensor(values)
    keep = pruning.keep_largest(score, count)
    gone = [i for i in range(len(values)) if i not in keep.tolist()]
    assert len(keep) == count and (keep.diff() > 0).all()
    assert not gone or score[gone].max() <= score[keep].min()


def test_layer_and_global_choice():
    by_layer = {"a": torch.tensor([1.0, 1.0, 1.0, 1.0]), "b": torch.tensor([0.1, 0.1, 0.1, 30.0])}
    layer = pruning.choose(by_layer, 0.5, "layer")
    assert [len(k) for k in layer.values()] == [2, 2] and 3 in layer["b"]
    together = pruning.choose(by_layer, 0.375, "global")
    assert together["a"].tolist() == [0, 1, 2, 3] and together["b"].tolist() == [3]
    flat = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([0.0, 0.0])}
    assert [len(k) for k in pruning.choose(flat, 0.75, "global").values()] == [1, 1], "each layer keeps one"


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda n, g, p: pruning.remove(n, g, p, torch.tensor([], dtype=torch.long)), "at least one"),
        (lambda n, g, p: pruning.remove(n, g, p, torch.tensor([1, 0])), "rising order"),
        (lambda n, g, p: pruning.remove(n, g, p, torch.tensor([0, 6])), "no channel 6"),
        (lambda n, g, p: pruning.kept_count(4, 1.0), "between 0 and 1"),
        (lambda n, g, p: pruning.choose({"a": torch.ones(2)}, 0.5, "both"), "scope 'both'"),
    ],
)
def test_mistakes_are_named(net, call, words):
    graph = trace(net)
    with pytest.raises(DataFreeError, match=words):
        call(net, graph, graph.pairs()[0])


def test_a_network_without_pairs_is_refused():
    with pytest.raises(DataFreeError, match="no two layers"):
        pruning.prunable(trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())))


# Single weights ------------------------------------------------------------------------------------------------------


def random_weights():
    g = torch.Generator().manual_seed(0)
    return {"a": torch.randn(10, 20, generator=g), "b": 0.1 * torch.randn(30, 5, 3, 3, generator=g)}


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_masks_meet_the_share_and_keep_the_largest(share):
    weights = random_weights()
    total = sum(w.numel() for w in weights.values())
    everywhere, uniform = pruning.global_masks(weights, share), pruning.layer_masks(weights, 1 - share)
    assert sum(int(m.sum()) for m in everywhere.values()) == round((1 - share) * total)
    for name, w in weights.items():
        assert int(uniform[name].sum()) == round((1 - share) * w.numel()) and uniform[name].shape == w.shape
    for masks, groups in ((everywhere, [tuple(weights)]), (uniform, [("a",), ("b",)])):
        for names in groups:
            kept = torch.cat([weights[n][masks[n]].abs() for n in names])
            gone = torch.cat([weights[n][~masks[n]].abs() for n in names])
            assert not len(kept) or not len(gone) or kept.min() >= gone.max()


@given(
    st.lists(st.tuples(st.floats(1e-3, 10), st.integers(1, 10_000)), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_proportional_shares_meet_the_total_and_stay_proportional_below_one(layers, share):
    quotients = {str(i): q for i, (q, _) in enumerate(layers)}
    sizes = {str(i): n for i, (_, n) in enumerate(layers)}
    found = pruning.proportional_shares(quotients, sizes, share)
    assert all(0 <= v <= 1 for v in found.values())
    total = sum(sizes.values())
    assert sum(found[n] * sizes[n] for n in sizes) == pytest.approx(share * total, abs=1e-6 * total)
    ratios = [found[n] / quotients[n] for n in sizes if found[n] < 1]
    assert not ratios or max(ratios) == pytest.approx(min(ratios), rel=1e-6, abs=1e-12)


def test_masked_zeroes_a_copy():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    before = net[0].weight.clone()
    smaller = pruning.masked(net, {"0": torch.eye(3, 4, dtype=torch.bool)})
    assert torch.equal(net[0].weight, before) and int((smaller[0].weight != 0).sum()) == 3
    assert pruning.sparsity([smaller[0].weight]) == pytest.approx(0.75)
    assert torch.equal(smaller[2].weight, net[2].weight)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_shares_outside_zero_and_one_are_refused(share):
    with pytest.raises(DataFreeError, match="between 0 and 1"):
        pruning.global_masks(random_weights(), share)
    with pytest.raises(DataFreeError, match="between 0 and 1"):
        pruning.layer_masks(random_weights(), {"a": 0.5, "b": share})
    with pytest.raises(DataFreeError, match="between 0 and 1"):
        pruning.proportional_shares({"a": 1.0}, {"a": 1}, share)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(DataFreeError, match="make it for this network"):
        pruning.masked(nn.Sequential(nn.Linear(4, 3)), {"0": torch.ones(2, 2, dtype=torch.bool)})
