"""UDFC: the closed form, what must be exact, and whole networks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import datafree
from datafree import UDFC
from datafree.baselines import neuron_merging
from datafree.core import batchnorm
from datafree.core.flops import count_parameters
from datafree.core.graph import trace
from datafree.core.metrics import outputs
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, state_hash
from datafree.networks.zoo import build_network
from datafree.papers.udfc import compression, reconstruction

DOUBLE = torch.float64


def problem(seed=0, d=20, kept=6, lost=3):
    """Random channels that are left, and others."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(d, kept + lost, generator=generator, dtype=DOUBLE)
    c = torch.randn(kept + lost, generator=generator, dtype=DOUBLE)
    return reconstruction.Folded(a[:, :kept], c[:kept]), reconstruction.Folded(a[:, kept:], c[kept:])


class Two(nn.Module):
    """conv, BatchNorm, relu, conv, BatchNorm: the derivation's setting. Without padding, so intercepts are exact."""

    def __init__(self, channels=6, positive=False, seed=0, norm=True):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, channels, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, 4, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(4) if norm else nn.Identity()
        for layer in (self.bn1, self.bn2) if norm else (self.bn1,):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_()
            layer.running_var.uniform_(0.5, 1.5)
        if positive:  # every activation is above zero for images in [0, 1]
            self.conv1.weight.data.abs_()
            self.bn1.bias.data.uniform_(0.5, 1.0)
        self.eval()

    def forward(self, x):
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


def plant(net, j, mix):
    """Make channel j of conv1, BatchNorm included, the combination `mix` of the others."""
    rows, constants = reconstruction.rows_and_constants(net, trace(net), "conv1")
    scale = (net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()).double()[j]
    net.conv1.weight.data[j] = (mix @ rows / scale).view_as(net.conv1.weight[j]).float()
    net.bn1.running_mean[j] = 0.0
    net.bn1.bias.data[j] = (mix @ constants).float()
    return net


def images(count=16, size=10, seed=5):
    return generated(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)), "noise")


# The closed form -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(1e-4, 2))
@settings(max_examples=30, deadline=None)
def test_it_solves_the_stacked_least_squares(seed, alpha1, alpha2):
    left, lost = problem(seed)
    stacked = torch.cat([left.a, alpha1**0.5 * left.c[None], alpha2**0.5 * torch.eye(6, dtype=DOUBLE)])
    wanted = torch.cat([lost.a, alpha1**0.5 * lost.c[None], torch.zeros(6, 3, dtype=DOUBLE)])
    reference = torch.linalg.lstsq(stacked, wanted).solution
    torch.testing.assert_close(reconstruction.closed_form(left, lost, alpha1, alpha2), reference, rtol=1e-5, atol=1e-5)


def test_it_is_the_limit_of_gradient_descent():
    left, lost = problem()
    s = torch.zeros(6, dtype=DOUBLE, requires_grad=True)
    hessian = 2 * (left.a.T @ left.a + 0.01 * torch.outer(left.c, left.c) + 0.008 * torch.eye(6, dtype=DOUBLE))
    rate = 1 / torch.linalg.eigvalsh(hessian).max()
    for _ in range(3000):
        (slope,) = torch.autograd.grad(reconstruction.loss(s, left, lost.a[:, 0], lost.c[0]), s)
        s = (s - rate * slope).detach().requires_grad_()
    torch.testing.assert_close(reconstruction.closed_form(left, lost)[:, 0], s.detach(), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_no_step_away_from_it_lowers_the_loss(seed, length):
    left, lost = problem(seed)
    best = reconstruction.closed_form(left, lost)[:, 0]
    step = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * length
    at = [reconstruction.loss(s, left, lost.a[:, 0], lost.c[0]) for s in (best, best + step)]
    assert at[0] <= at[1]


def test_dependent_channels_need_alpha2():
    left, lost = problem(d=3)
    with pytest.raises(DataFreeError, match="alpha2 is 0.0; give alpha2 above zero"):
        reconstruction.closed_form(left, lost, 0.0, 0.0)
    assert reconstruction.closed_form(left, lost).isfinite().all()


def test_an_undamaged_channel_stands_for_itself():
    keep, damaged = torch.tensor([0, 2]), torch.tensor([False, True, False])
    solved = torch.full((2, 3), 7.0, dtype=DOUBLE)
    assert reconstruction.unified(keep, solved, damaged).tolist() == [[1, 7, 0], [0, 7, 1]]


def test_without_damage_the_closed_form_is_the_identity():
    left, _ = problem()
    torch.testing.assert_close(reconstruction.closed_form(left, left, 0.01, 1e-12), torch.eye(6, dtype=DOUBLE))
    net = Two()
    for repair in ("none", "closed_form", "merging", "gaussian", "bias"):
        same, _ = compression.compress(net, UDFC(prune_ratio=0.0, repair=repair))
        torch.testing.assert_close(same(images().floats()), net(images().floats()), rtol=1e-4, atol=1e-5)


def test_reconstruction_adds_what_channels_take_over():
    weight = torch.randn(4, 3, 2, 2)
    s = torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 1.0]])
    rebuilt = reconstruction.reconstruct(weight, s)
    torch.testing.assert_close(rebuilt[:, 0], weight[:, 0] + 0.5 * weight[:, 1])
    torch.testing.assert_close(rebuilt[:, 1], weight[:, 2] - 2 * weight[:, 1])
    assert rebuilt.dtype == weight.dtype


def test_a_planted_dependence_is_folded_without_error():
    mix = torch.tensor([0.5, 0.0, 0.25, 0.0, 1.0, 0.0], dtype=DOUBLE)
    net = plant(Two(positive=True), 3, mix)
    x = images().floats()
    assert (net.bn1(net.conv1(x)) > 0).all(), "the case is one without rectification"
    work = compression.Compression(net, UDFC(prune_ratio=0.17, alpha2=1e-9))
    work.keep["conv1"] = torch.tensor([0, 1, 2, 4, 5])
    for layer in work.graph.layers:
        work.arrive(layer.name)
    assert work.net.conv2.weight.shape[1] == 5
    torch.testing.assert_close(work.net(x), net(x), rtol=1e-3, atol=1e-3)
    silent = compression.Compression(net, UDFC(prune_ratio=0.17, repair="none"))
    silent.keep["conv1"] = torch.tensor([0, 1, 2, 4, 5])
    for layer in silent.graph.layers:
        silent.arrive(layer.name)
    assert (silent.net(x) - net(x)).norm() > 100 * (work.net(x) - net(x)).norm()


def test_folding_gives_what_the_network_computes():
    net = build_network("mobilenet_v2_small").eval()
    for layer in (m for _, m in batchnorm.layers(net)):
        layer.weight.data.uniform_(-1, 1)
        layer.bias.data.normal_()
        layer.running_mean.normal_()
    wiring = trace(net)
    pair = next(p for p in wiring.pairs() if p.middle and wiring.feeding(p.first).kind == "norm")
    a, c = reconstruction.folded(net, wiring, pair)
    body = net.get_submodule(pair.first.rpartition(".")[0])
    x = torch.randn(2, wiring.layer(pair.first).inputs, 3, 3)
    linear = body[4](body[3](body[1](body[0](x))))  # expand, BatchNorm, depthwise, BatchNorm without relu
    patch = torch.einsum("nit,ito->no", x.flatten(2), a.view(x.shape[1], 9, -1).float())
    torch.testing.assert_close(linear[:, :, 1, 1], patch + c.float(), rtol=1e-3, atol=1e-4)


# Baselines -------------------------------------------------------------------------------------------------------


def test_neuron_merging_finds_a_scaled_copy():
    net = Two()
    net.conv1.weight.data[3] = 2.0 * net.conv1.weight.data[1]
    keep = torch.tensor([0, 1, 2, 4, 5])
    s = neuron_merging.neuron_merging(net.conv1.weight, net.bn1, keep, lam=1.0)
    assert s[:, 3].nonzero().flatten().tolist() == [1]
    factor = (net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()).double()
    assert s[1, 3] == pytest.approx((2 * factor[1] / factor[3]).item())
    assert torch.equal(s[:, keep], torch.eye(5, dtype=DOUBLE))


def test_below_the_threshold_nothing_is_merged():
    net = Two()
    s = neuron_merging.neuron_merging(net.conv1.weight, net.bn1, torch.tensor([0, 1, 2]), threshold=0.999)
    assert (s[:, 3:] == 0).all()


# Whole networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repair", compression.REPAIRS)
@pytest.mark.parametrize("name, bits", [("resnet20", None), ("slim_vgg", 2), ("mobilenet_v2_small", 3)])
def test_every_repair_of_every_network_gives_a_smaller_one(name, repair, bits):
    net = load_network(name)
    before = state_hash(net)
    pool = images(8, 32) if repair == "images" else None
    result = datafree.compress(net, UDFC(prune_ratio=0.4, weight_bits=bits, repair=repair), pool)
    assert state_hash(net) == before, "the model given is left alone"
    assert result.report["macs"] < 0.8 * result.report["macs_float"]
    assert result.report["parameters"] < 0.8 * count_parameters(net)
    assert result.report["bytes"] < (0.8 if bits is None else 0.15) * result.report["bytes_float"]
    out = outputs(result.model, images(4, 32))
    assert out.shape == (4, 10) and out.isfinite().all()
    if bits:
        for layer in trace(result.model).layers:
            weight = result.model.get_submodule(layer.name).weight
            assert all(len(row.unique()) <= 2**bits for row in weight.flatten(1)), layer.name


@pytest.mark.parametrize("criterion", ["l1", "l2", "residual"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_choice_prunes_the_asked_share(criterion, scope):
    net = load_network("resnet20")
    _, report = compression.compress(net, UDFC(prune_ratio=0.5, criterion=criterion, scope=scope))
    whole = sum(p for p in (16,) * 3 + (32,) * 3 + (64,) * 3)
    assert sum(report["kept"].values()) == pytest.approx(whole / 2, abs=9)


def error(net, student, pool):
    a, b = (outputs(m, pool) for m in (net, student))
    return ((a - b).square().mean() / a.var()).item()


def test_repairs_are_ordered_on_a_trained_network():
    """On real images: doing nothing loses most, rectified Gaussians less, matched moments of real images least."""
    net, test = load_network("resnet20"), load_images("cifar10-stub", "test").per_class(10)
    pool = load_images("cifar10-stub", "train").per_class(10)
    settings_ = {"none": None, "gaussian": None, "images": pool}
    lost = [error(net, compression.compress(net, UDFC(repair=r), p)[0], test) for r, p in settings_.items()]
    assert lost[0] > lost[1] > lost[2]


def test_matched_moments_lose_less_of_the_next_map():
    net, pool, unseen = Two(12), images(64), images(32, seed=9)
    repaired, _ = compression.compress(net, UDFC(prune_ratio=0.5, repair="images", rescale=False), pool)
    silent, _ = compression.compress(net, UDFC(prune_ratio=0.5, repair="none"))
    before, after, lost = (m(unseen.floats()) for m in (net, repaired, silent))
    assert (after - before).square().mean() < 0.3 * (lost - before).square().mean()


def test_intercepts_reach_a_layer_without_batchnorm():
    net = Two(norm=False)
    repaired, _ = compression.compress(net, UDFC(prune_ratio=0.5, repair="images"), images(64))
    assert repaired.conv2.bias is not None and net.conv2.bias is None
    mean = [m(images(64).floats()).mean((0, 2, 3)) for m in (net, repaired)]
    torch.testing.assert_close(mean[0], mean[1], rtol=1e-3, atol=1e-3)


def test_the_same_twice_is_the_same():
    net = load_network("resnet20")
    made = [compression.compress(net, UDFC(repair="gaussian"))[0] for _ in range(2)]
    assert state_hash(made[0]) == state_hash(made[1])


class Branch(nn.Module):
    """A forward pass that depends on values: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    "make, config, pool, words",
    [
        (Two, UDFC(repair="images"), None, "belong together"),
        (Two, UDFC(), images(4), "belong together"),
        (Branch, UDFC(), None, "cannot be traced"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), UDFC(), None, "no two layers"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)),
            UDFC(), None, "no two layers with only an activation",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.SiLU(), nn.Conv2d(4, 2, 1)),
            UDFC(repair="gaussian"), None, "silu.*no rectified Gaussians",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
            UDFC(repair="merging"), None, "'0' has no BatchNorm",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_any_work(make, config, pool, words):
    with pytest.raises(DataFreeError, match=words):
        datafree.compress(make(), config, pool)


@pytest.mark.parametrize(
    "value", [{"prune_ratio": 1.0}, {"weight_bits": 1}, {"repair": "magic"}, {"alpha2": -1.0}, {"extra": 1}]
)
def test_wrong_settings_are_refused(value):
    with pytest.raises(ValueError, match=next(iter(value))):
        UDFC(**value)


def test_silu_is_repaired_with_images():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 2, 3), nn.BatchNorm2d(2)).eval()
    repaired = datafree.compress(net, UDFC(repair="images"), images(32), (3, 10, 10)).model
    assert repaired(images(2).floats()).isfinite().all() and repaired[0].out_channels == 6


def test_the_closed_form_needs_no_batchnorm():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3)).eval()
    result = datafree.compress(net, UDFC(weight_bits=8), shape=(3, 10, 10))
    assert result.model[0].out_channels == 6 and result.report["images"] == "none"


def test_a_copy_of_the_network_is_compressed_alike():
    net = Two()
    again = copy.deepcopy(net)
    a, b = (compression.compress(m, UDFC(repair="gaussian", weight_bits=4))[0] for m in (net, again))
    assert state_hash(a) == state_hash(b)


def test_observed_images_stand_for_the_images():
    net, pool = Two(), images(32, 8)
    seen = compression.observe(net, pool)
    whole = net.relu(net.bn1(net.conv1(pool.floats())))
    torch.testing.assert_close(seen.inputs["conv2"].mean(0), whole.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    config = UDFC(prune_ratio=0.5, repair="images", criterion="residual")
    a, b = (compression.compress(net, config, given)[0] for given in (pool, seen))
    assert state_hash(a) == state_hash(b)
    with pytest.raises(DataFreeError, match="observed in another network"):
        compression.compress(load_network("resnet20"), config, seen)


def test_errors_of_the_next_map():
    net, pool = Two(8), images(16)
    assert compression.map_errors(net, UDFC(prune_ratio=0.0, repair="none"), pool) == {"conv1": 0.0}
    few, many = (compression.map_errors(net, UDFC(prune_ratio=r, repair="none"), pool)["conv1"] for r in (0.2, 0.8))
    assert 0 < few < many
    student, _ = compression.compress(net, UDFC(prune_ratio=0.8, repair="none"))
    z, z_hat = (m(pool.floats()) for m in (net, student))
    wanted = ((z_hat - z).square().sum() / (z - z.mean((0, 2, 3), keepdim=True)).square().sum()).item()
    assert many == pytest.approx(wanted, rel=1e-4), "two layers: the next map is the output"
