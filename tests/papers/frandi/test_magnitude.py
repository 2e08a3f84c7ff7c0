"""FRanDI beyond low rank: magnitude masks under a budget, their recovery, and quantised networks."""

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet, quick_frandi, scores_one_by_one, with_statistics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import datafree
from datafree import FRanDI, FRanDIQuantization
from datafree.baselines import dfq
from datafree.config import validate
from datafree.core import pruning, quantized
from datafree.core.distillation import Batches, train_student
from datafree.core.flops import count_macs, count_parameters
from datafree.core.graph import fold_all, trace
from datafree.core.metrics import outputs
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.frandi import magnitude, quantization, regression, selection, synthesis
from datafree.papers.layerwise import generated_inputs

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


def bits(**settings):
    made = synthesis.Synthesis(steps=2, images=4, precision="float32")
    taught = regression.Recovery(steps=3, rate=0.003, precision="float32")
    return FRanDIQuantization(**(dict(synthesis=made, recovery=taught) | settings))


class TestQuantization:
    def test_many_bits_change_nothing(self, net, pool):
        student = quantization.rounded(
            net, bits(weight_bits=16, act_bits=16, calibrated=False, ranges="extremes"), pool
        )
        wanted = outputs(net, pool)
        torch.testing.assert_close(outputs(student, pool), wanted, rtol=2e-3, atol=2e-3)

    @pytest.mark.parametrize("edge_bits", [None, 8])
    @pytest.mark.parametrize("per_channel", [True, False])
    def test_weights_lie_on_the_grid(self, net, pool, edge_bits, per_channel):
        student = quantization.rounded(net, bits(weight_bits=3, edge_bits=edge_bits, per_channel=per_channel), pool)
        layers = [layer for _, layer in quantized.quantized_layers(student)]
        rows = [w if per_channel else w.flatten()[None] for w in (m.quantized_weight().detach() for m in layers)]
        most = [max(len(row.unique()) for row in w) for w in rows]
        assert all(m <= 2**3 for m in most[1:-1])
        assert (max(most[0], most[-1]) > 2**3) == (edge_bits == 8)

    def test_gradients_pass_every_rounding(self, net, pool):
        student = quantization.rounded(net, bits(weight_bits=3, act_bits=3), pool)
        layers = quantized.quantized_layers(student)
        regression.discrepancy(student(pool.floats()), net(pool.floats()).detach()).backward()
        assert all(layer.inner.weight.grad.abs().sum() > 0 for _, layer in layers)

    def test_recovery_lowers_what_it_minimises_and_keeps_the_ranges(self, net, pool):
        student = quantization.rounded(net, bits(weight_bits=3, act_bits=3), pool)
        layers = [name for name, _ in quantized.quantized_layers(student)]
        ends = [(m.low.clone(), m.high.clone()) for _, m in quantized.quantized_layers(student)]
        history = regression.Regression(
            student, net, layers, pool, regression.Recovery(steps=25, rate=0.003, precision="float32")
        ).run()
        assert min(history[-3:]) < history[0]
        assert all(
            m.low == low and m.high == high for (_, m), (low, high) in zip(quantized.quantized_layers(student), ends)
        )

    def test_the_rules_order_the_ranges(self, net, pool):
        wide, narrow = (quantization.rounded(net, bits(act_bits=3, ranges=rule), pool) for rule in ("extremes", "mse"))
        pairs = zip(quantized.quantized_layers(wide), quantized.quantized_layers(narrow))
        assert all(a.high >= b.high and a.low <= b.low for (_, a), (_, b) in pairs)

    def test_the_verb_quantises(self, net):
        before = state_hash(net)
        result = datafree.compress(net, bits(), shape=SHAPE)
        assert result.report["images"] == "FRanDI" and "regression_loss" in result.report
        assert result.report["bytes"] < result.report["bytes_float"] and state_hash(net) == before

    def test_given_images_need_no_synthesis(self, net, pool, monkeypatch):
        monkeypatch.setattr(quantization, "synthesize", None)
        result = datafree.compress(net, bits(recovery=None), pool, SHAPE)
        assert result.report["images"] == "given" and "regression_loss" not in result.report

    @pytest.mark.parametrize(
        "settings", [{"weight_bits": 1}, {"act_bits": 17}, {"ranges": "guess"}, {"budget": "flops"}]
    )
    def test_settings_out_of_range_are_refused(self, settings):
        with pytest.raises(DataFreeError, match="FRanDIQuantization"):
            validate(FRanDIQuantization, settings)


class TestRangesFromMoments:
    def fused(self, net):
        wiring = trace(net)
        return fold_all(net, wiring), wiring, generated_inputs.stored_moments(net, wiring)

    def test_ranges_are_those_of_six_deviations(self, net):
        ready, wiring, moments = self.fused(net)
        student = quantized.prepare(ready, 8, 8)
        dfq.set_ranges(student, wiring, moments)
        for part in wiring.layers:
            low, high = dfq.six_sigma_range(wiring.feeding(part.name), moments, part.inputs)
            layer = student.get_submodule(part.name)
            assert layer.low == low.amin() and layer.high == high.amax()

    def test_corrected_biases_give_the_expected_mean_back(self, net):
        ready, wiring, moments = self.fused(net)
        student = quantized.prepare(ready, 3, 16)
        plain = quantized.prepare(ready, 3, 16)
        dfq.set_ranges(student, wiring, moments)
        name = wiring.layers[1].name
        layer, whole = student.get_submodule(name), ready.get_submodule(name)
        mean = dfq.gaussian(wiring.feeding(name), moments, wiring.layers[1].inputs)[0]

        def expected(weight, bias):
            return (weight.flatten(2).sum(2) @ mean) + bias

        wanted = expected(whole.weight, whole.bias)
        dfq.correct_biases(student, ready, wiring, moments)
        before = expected(plain.get_submodule(name).quantized_weight(), whole.bias)
        after = expected(layer.quantized_weight(), layer.inner.bias)
        torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-4)
        assert (before - wanted).abs().max() > 1e-3

    def test_a_float_network_is_refused(self, net):
        ready, wiring, moments = self.fused(net)
        with pytest.raises(DataFreeError, match="is not quantised"):
            dfq.set_ranges(ready, wiring, moments)
