"""FRanDI on quantised networks."""

import pytest
import torch
from conftest import SmallNet, with_statistics

import datafree
from datafree import FRanDIQuantization
from datafree.config import validate
from datafree.core import quantized
from datafree.core.metrics import outputs
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.frandi import quantization, regression, synthesis

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


@pytest.fixture(scope="module")
def pool():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")


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
