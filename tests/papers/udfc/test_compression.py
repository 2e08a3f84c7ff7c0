"""UDFC on whole networks: every repair, what it costs and what it keeps."""

import copy

import pytest
import torch
from conftest import TwoConvolutions
from torch import nn

import datafree
from datafree import UDFC
from datafree.core.flops import count_parameters
from datafree.core.graph import trace
from datafree.core.metrics import outputs
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, state_hash
from datafree.papers.udfc import compression


def images(count=16, size=10, seed=5):
    return generated(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)), "noise")


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
    net, pool, unseen = TwoConvolutions(12), images(64), images(32, seed=9)
    repaired, _ = compression.compress(net, UDFC(prune_ratio=0.5, repair="images", rescale=False), pool)
    silent, _ = compression.compress(net, UDFC(prune_ratio=0.5, repair="none"))
    before, after, lost = (m(unseen.floats()) for m in (net, repaired, silent))
    assert (after - before).square().mean() < 0.3 * (lost - before).square().mean()


def test_intercepts_reach_a_layer_without_batchnorm():
    net = TwoConvolutions(norm=False)
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
        return self.bn(self.conv(x)) if x.sum() >= 0 else x


@pytest.mark.parametrize(
    "make, config, pool, words",
    [
        (TwoConvolutions, UDFC(repair="images"), None, "belong together"),
        (TwoConvolutions, UDFC(), images(4), "belong together"),
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
    net = TwoConvolutions()
    again = copy.deepcopy(net)
    a, b = (compression.compress(m, UDFC(repair="gaussian", weight_bits=4))[0] for m in (net, again))
    assert state_hash(a) == state_hash(b)


def test_observed_images_stand_for_the_images():
    net, pool = TwoConvolutions(), images(32, 8)
    seen = compression.observe(net, pool)
    whole = net.relu(net.bn1(net.conv1(pool.floats())))
    torch.testing.assert_close(seen.inputs["conv2"].mean(0), whole.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    config = UDFC(prune_ratio=0.5, repair="images", criterion="residual")
    a, b = (compression.compress(net, config, given)[0] for given in (pool, seen))
    assert state_hash(a) == state_hash(b)
    with pytest.raises(DataFreeError, match="observed in another network"):
        compression.compress(load_network("resnet20"), config, seen)


def test_errors_of_the_next_map():
    net, pool = TwoConvolutions(8), images(16)
    assert compression.map_errors(net, UDFC(prune_ratio=0.0, repair="none"), pool) == {"conv1": 0.0}
    few, many = (compression.map_errors(net, UDFC(prune_ratio=r, repair="none"), pool)["conv1"] for r in (0.2, 0.8))
    assert 0 < few < many
    student, _ = compression.compress(net, UDFC(prune_ratio=0.8, repair="none"))
    z, z_hat = (m(pool.floats()) for m in (net, student))
    wanted = ((z_hat - z).square().sum() / (z - z.mean((0, 2, 3), keepdim=True)).square().sum()).item()
    assert many == pytest.approx(wanted, rel=1e-4), "two layers: the next map is the output"
