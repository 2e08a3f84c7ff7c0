"""Spatial SVD: exact at full rank, best below it, and costs that match what is built."""

import pytest
import torch
from conftest import with_statistics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datafree.core.flops import count_macs, count_parameters
from datafree.errors import DataFreeError
from datafree.evidence import claims
from datafree.networks.zoo import build_network
from datafree.papers.frandi import factorization


def conv(seed=0, i=4, o=6, **settings):
    torch.manual_seed(seed)
    return nn.Conv2d(i, o, **({"kernel_size": 3, "padding": 1} | settings)).double()


def images(count=3, side=9):
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 2}, {"stride": (2, 1)}, {"kernel_size": 5, "padding": 2}, {"kernel_size": (3, 5), "padding": (0, 2)},
     {"dilation": 2, "padding": 2}, {"bias": False}, {"kernel_size": (1, 3), "padding": (0, 1)}],
)  # fmt: skip
def test_full_rank_is_the_same_layer(settings):
    layer = conv(**settings)
    full = min(4 * layer.kernel_size[0], 6 * layer.kernel_size[1])
    thin = factorization.spatial_svd(layer, full)
    torch.testing.assert_close(thin(images()), layer(images()))


@given(rank=st.integers(1, 12), stride=st.sampled_from([1, 2]))
def test_below_full_rank_it_is_the_compact_weight(rank, stride):
    layer = conv(stride=stride)
    compact = factorization.compact_weight(factorization.decompose(layer.weight), rank, layer.weight.shape)
    dense = nn.functional.conv2d(images(), compact, layer.bias, stride, 1)
    torch.testing.assert_close(factorization.spatial_svd(layer, rank)(images()), dense)
    dropped = factorization.decompose(layer.weight).values[rank:].square().sum()
    torch.testing.assert_close((layer.weight - compact).square().sum(), dropped)  # Eckart and Young: the least there is


def test_singular_values_are_shared_evenly():
    parts = factorization.decompose(conv().weight)
    first, second = factorization.spatial_svd(conv(), 5, parts)
    torch.testing.assert_close(first.weight.flatten(1).norm(dim=1), parts.values[:5].sqrt())
    torch.testing.assert_close(second.weight.transpose(0, 1).flatten(1).norm(dim=1), parts.values[:5].sqrt())


def test_the_stride_is_split():
    first, second = factorization.spatial_svd(conv(stride=2), 3)
    assert (first.stride, second.stride) == ((2, 1), (1, 2))
    assert (first.kernel_size, second.kernel_size) == ((3, 1), (1, 3))


def test_the_layer_given_is_left_alone():
    layer = conv()
    before = layer.weight.clone()
    factorization.spatial_svd(layer, 2)[0].weight.data.zero_()
    assert torch.equal(layer.weight, before)


@given(i=st.integers(1, 64), o=st.integers(1, 64), side=st.sampled_from([3, 5, 7]))
def test_kept_share_is_one_at_the_break_even_rank(i, o, side):
    even = i * o * side / (i + o)
    assert factorization.kept_share(i, o, side, even) == pytest.approx(1)
    assert factorization.kept_share(i, o, side, even - 0.5) < 1 < factorization.kept_share(i, o, side, even + 0.5)


@pytest.mark.parametrize("rank", [0, 13, -1, 2.0, True])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(DataFreeError, match="from 1 to 12"):
        factorization.spatial_svd(conv(), rank)


@pytest.mark.parametrize(
    "settings", [{"groups": 2}, {"kernel_size": 1, "padding": 0}, {"padding_mode": "reflect"}, {"padding": "same"}]
)
def test_a_layer_that_cannot_be_split_is_refused(settings):
    with pytest.raises(DataFreeError, match="cannot be split"):
        factorization.spatial_svd(conv(**settings), 1)


def test_table_8_gives_the_printed_compression():
    """The ranks fit a stem of 3 x 3 pixels and a split stride, and no other reading."""
    factors = factorization.Factorizer(build_network("resnet18_cifar", classes=100))
    ranks = {row["layer"]: row["rank"] for row in claims.table("frandi", "T8")["rows"]}
    assert list(factors.layers) == list(ranks)
    assert factors.dense_macs / factors.macs(ranks) == pytest.approx(5.009, abs=5e-4)
    assert factors.dense_macs == 555_468_800
    thin = factors.network(ranks)
    assert count_macs(thin) == factors.macs(ranks)
    assert count_parameters(thin) == factors.parameters(ranks)


@pytest.fixture(scope="module")
def factors():
    torch.manual_seed(0)
    return factorization.Factorizer(with_statistics(build_network("resnet20"), batch=8))


class TestNetworks:
    @pytest.mark.parametrize("name", ["resnet20", "slim_vgg"])
    def test_costs_are_those_of_the_network_that_is_built(self, name):
        factors = factorization.Factorizer(build_network(name))
        ranks = {name: 1 + k % layer.full_rank for k, (name, layer) in enumerate(factors.layers.items())}
        thin = factors.network(ranks)
        assert factors.macs(ranks) == count_macs(thin)
        assert factors.parameters(ranks) == count_parameters(thin)
        assert factors.macs({}) == count_macs(factors.model)

    def test_full_ranks_keep_the_outputs(self, factors):
        full = factors.network({name: layer.full_rank for name, layer in factors.layers.items()})
        x = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(full(x), factors.model(x), rtol=1e-4, atol=1e-4)

    def test_first_layer_shortcuts_and_classifier_stay(self, factors):
        assert "conv1" not in factors.layers and "linear" not in factors.layers and len(factors.layers) == 18
        assert not any("shortcut" in name for name in factorization.Factorizer(build_network("resnet18_cifar")).layers)

    def test_uniform_ranks_come_close_to_the_reduction(self, factors):
        for reduction in (2.0, 4.0):
            ranks = factors.uniform(reduction)
            assert factors.dense_macs / factors.macs(ranks) == pytest.approx(reduction, rel=0.05)
        for reduction in (0.5, 1e6):
            with pytest.raises(DataFreeError, match="cannot be reached"):
                factors.uniform(reduction)

    def test_an_unknown_layer_is_named(self, factors):
        for call in (factors.network, factors.macs, factors.parameters):
            with pytest.raises(DataFreeError, match="'conv1' is no convolution that can be compressed"):
                call({"conv1": 3})

    def test_a_wrong_rank_is_named(self, factors):
        with pytest.raises(DataFreeError, match="'layer1.0.conv1' has rank 48"):
            factors.network({"layer1.0.conv1": 49})

    def test_a_network_without_wide_kernels_is_refused(self):
        with pytest.raises(DataFreeError, match="no convolution to compress"):
            factorization.Factorizer(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)), (3, 8, 8))

    def test_a_layer_that_runs_twice_stays(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem, self.again, self.once = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

            def forward(self, x):
                return self.once(self.again(self.again(self.stem(x))))

        factors = factorization.Factorizer(Twice(), (3, 8, 8))
        assert list(factors.layers) == ["once"]
        assert factors.macs({"once": 2}) == count_macs(factors.network({"once": 2}), (3, 8, 8))
