"""FRanDI beyond low rank: magnitude masks under a budget, their recovery, and quantised networks."""

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet, quick_frandi, scores_one_by_one, with_statistics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import datafree
from datafree import FRanDI
from datafree.config import validate
from datafree.core import pruning
from datafree.core.distillation import Batches, train_student
from datafree.core.flops import count_macs, count_parameters
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.frandi import magnitude, regression, selection

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


@pytest.fixture(scope="module")
def pruner(net):
    return magnitude.Pruner(net, SHAPE)


@pytest.fixture(scope="module")
def pool():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")


def config(**settings):
    return quick_frandi(**(dict(compressor="magnitude", budget="parameters") | settings))


def zeros(network, names):
    return {name: network.get_submodule(name).weight == 0 for name in names}


def nonzero(network, pruner):
    """Trainable values that no mask took, counted in the network itself."""
    hidden = sum(int((network.get_submodule(name).weight == 0).sum()) for name in pruner.layers)
    return count_parameters(network) - hidden


class TestPruner:
    def test_the_first_convolution_and_the_classifier_stay_dense(self, net, pruner):
        convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
        assert list(pruner.layers) == convolutions[1:]

    @given(data=st.data())
    def test_the_largest_stay_and_their_number_is_exact(self, net, pruner, data):
        counts = {n: data.draw(st.integers(1, s.full_rank)) for n, s in pruner.layers.items()}
        thin = pruner.network(counts)
        for name, count in counts.items():
            weight, kept = net.get_submodule(name).weight.abs(), thin.get_submodule(name).weight != 0
            assert int(kept.sum()) == count
            assert kept.all() or weight[kept].min() >= weight[~kept].max()
            assert torch.equal(thin.get_submodule(name).weight, pruner.compact(name, count))
        assert pruner.parameters(counts) == nonzero(thin, pruner)

    def test_everything_kept_is_exact(self, net, pruner, pool):
        full = {name: layer.full_rank for name, layer in pruner.layers.items()}
        assert state_hash(pruner.network(full)) == state_hash(net)
        assert pruner.macs(full) == count_macs(net, SHAPE)
        score = selection.discrepancies(pruner, [tuple(full.values())], pool, precision="float32")[0]
        assert score == pytest.approx(0, abs=1e-3)

    def test_one_share_for_all_layers_meets_it(self, pruner):
        counts = pruner.uniform(0.6)
        assert pruner.parameters(counts) / pruner.dense_parameters == pytest.approx(0.6, abs=0.01)

    @pytest.mark.parametrize("share", [0.0, 0.05, 1.2])
    def test_shares_out_of_reach_are_refused(self, pruner, share):
        with pytest.raises(DataFreeError, match="what is never pruned"):
            pruner.uniform(share)

    @pytest.mark.parametrize("count", [0, 10**6, 2.5, True])
    def test_counts_out_of_range_are_refused(self, pruner, count):
        with pytest.raises(DataFreeError, match="give a whole number from 1 to"):
            pruner.network({next(iter(pruner.layers)): count})

    def test_an_unknown_layer_is_named(self, pruner):
        with pytest.raises(DataFreeError, match="'conv9' is no convolution that can be compressed"):
            pruner.network({"conv9": 3})

    def test_a_network_of_one_convolution_is_refused(self):
        with pytest.raises(DataFreeError, match="no convolution to compress"):
            magnitude.Pruner(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), SHAPE)


class TestSearch:
    def test_every_candidate_fits_the_budget_by_count(self, pruner):
        settings = config(candidates=20, tolerance=0.02)
        for row in selection.Sampler(pruner, settings).rows():
            share = nonzero(pruner.network(dict(zip(pruner.layers, row))), pruner) / pruner.dense_parameters
            assert 0.48 <= share <= 0.52

    @pytest.mark.parametrize("calibrated", [False, True])
    def test_scores_are_those_of_the_naive_way(self, pruner, pool, calibrated):
        best = selection.search(pruner, pool, config(candidates=6, branches=2, calibrated=calibrated))
        naive = scores_one_by_one(pruner, best.rows, pool, calibrated)
        assert best.scores == pytest.approx(naive, rel=5e-3)  # running variances are unbiased, those of a batch are not
        assert naive[best.rows.index(tuple(best.ranks.values()))] <= 1.01 * min(naive)

    def test_a_budget_out_of_reach_is_told(self, pruner):
        with pytest.raises(DataFreeError, match="Ask for less reduction"):
            selection.Sampler(pruner, config(reduction=900.0, tolerance=1e-4)).rows()


class TestRecovery:
    def thin(self, pruner):
        counts = pruner.uniform(0.5)
        return counts, pruner.network(counts)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_zeros_stay_zero_and_the_others_move(self, net, pruner, pool, optimizer):
        counts, student = self.thin(pruner)
        before, start = zeros(student, counts), {n: student.get_submodule(n).weight.clone() for n in counts}
        taught = regression.Recovery(steps=5, rate=0.01, decay=0.1, optimizer=optimizer, precision="float32")
        with pruner.held(student, counts):
            regression.Regression(student, net, list(counts), pool, taught).run()
        for name, gone in before.items():
            weight = student.get_submodule(name).weight
            assert torch.equal(weight == 0, gone) and (weight != start[name])[~gone].float().mean() > 0.9

    def test_without_the_block_zeros_move(self, net, pruner, pool):
        counts, student = self.thin(pruner)
        with pruner.held(student, counts):
            pass  # hooks of a block that is over do nothing
        regression.Regression(student, net, list(counts), pool, regression.Recovery(steps=2, precision="float32")).run()
        assert pruning.sparsity([student.get_submodule(n).weight for n in counts]) < 0.1

    def test_cross_entropy_keeps_the_masks_too(self, net, pruner, pool):
        counts, student = self.thin(pruner)
        labelled = generated(pool.floats(), "noise", torch.arange(len(pool)) % 5)
        draw = Batches(labelled, 4)
        plain = FitConfig(steps=3, rate=0.01, decay=0.1)
        before = zeros(student, counts)
        with pruner.held(student, counts):
            train_student(student, lambda x, y: F.cross_entropy(student(x), y), plain, draw=draw, progress=False)
        assert all(torch.equal(zeros(student, counts)[n], before[n]) for n in counts)

    def test_the_verb_prunes(self, net):
        before = state_hash(net)
        result = datafree.compress(net, config(tolerance=0.02), shape=SHAPE)
        counts = result.report["ranks"]
        assert result.report["kept_parameters"] == nonzero(result.model, magnitude.Pruner(net, SHAPE))
        assert 0.48 <= result.report["kept_parameters"] / count_parameters(net) <= 0.52
        assert all(int((result.model.get_submodule(n).weight != 0).sum()) == c for n, c in counts.items())
        assert state_hash(net) == before

    def test_a_budget_of_operations_is_refused(self):
        with pytest.raises(DataFreeError, match="pruned weights save no operations"):
            validate(FRanDI, {"compressor": "magnitude"})
        with pytest.raises(DataFreeError, match="compressor"):
            validate(FRanDI, {"compressor": "quantize"})
