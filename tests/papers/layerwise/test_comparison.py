"""layerwise_baselines: every method ends on the same quantiser and leaves the network alone."""

import pytest
import torch
from conftest import network_named

from datafree.baselines import adaround, adversarial_distillation
from datafree.core import quantized
from datafree.core.graph import inputs_of, trace
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.networks.weights import state_hash
from datafree.papers.layerwise import comparison, quantization

CONFIG = quantization.LayerWise(weight_bits=5, act_bits=6, samples=50, grid=10)
IMAGES = generated(torch.rand(8, 3, 32, 32), "x")
METHODS = {
    "nothing": lambda net: comparison.nothing(net, CONFIG), "dfq": lambda net: comparison.dfq(net, CONFIG), "ours": lambda net: comparison.ours(net, CONFIG),
    "per channel": lambda net: comparison.per_channel(net, CONFIG),
    "adaround": lambda net: comparison.adaround_imitated(net, CONFIG, adaround.AdaRoundConfig(steps=2)),
    "zeroq": lambda net: comparison.zeroq_ranges(net, CONFIG, IMAGES),
    "inversion": lambda net: comparison.deep_inversion(net, CONFIG, IMAGES, FitConfig(steps=2, rate=1e-4), 4),
    "adversarial": lambda net: comparison.adversarial(net, CONFIG, adversarial_distillation.AdversarialConfig(steps=2, batch=4, width=8), (3, 32, 32)),
}  # fmt: skip


@pytest.fixture(scope="module")
def net():
    return network_named("resnet20")


@pytest.mark.parametrize("name", METHODS)
def test_every_layer_lies_on_levels_and_the_network_stays(name, net):
    before = state_hash(net)
    student = METHODS[name](net)
    assert state_hash(net) == before
    found = dict(quantized.quantized_layers(student))
    assert len(found) == len(trace(net).layers)
    for layer in found.values():
        assert layer.converted and (layer.weight_bits, layer.act_bits) == (5, 6) and layer.high > layer.low
        rows = layer.core.weight.flatten(1) if layer.per_channel else [layer.core.weight]
        assert all(len(row.unique()) <= 32 for row in rows)
    with torch.no_grad():
        assert torch.isfinite(student(IMAGES.floats())).all()


def test_baselines_differ_where_they_should(net):
    low = {name: torch.stack([m.high - m.low for _, m in quantized.quantized_layers(METHODS[name](net))])
           for name in ("nothing", "dfq", "adaround", "zeroq")}  # fmt: skip
    assert torch.equal(low["nothing"], low["adaround"])
    assert not torch.equal(low["nothing"], low["dfq"]) and not torch.equal(low["nothing"], low["zeroq"])


def test_dfq_is_ours_with_other_ranges_on_a_relu_network(net):
    a, b = comparison.dfq(net, CONFIG), quantization.compress(net, CONFIG.model_copy(update={"ranges": "six_sigma"}))[0]
    for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q)


def test_zeroq_ranges_are_extremes_on_its_images(net):
    student = METHODS["zeroq"](net)
    found = inputs_of(net, ["layer1.0.conv1", "linear"], IMAGES.floats())
    for name, x in found.items():
        layer = student.get_submodule(name)
        torch.testing.assert_close((layer.low, layer.high), (x.min(), x.max()), rtol=1e-3, atol=1e-4)


def test_per_channel_takes_ranges_over(net):
    a, b = comparison.per_channel(net, CONFIG), comparison.per_channel(net, CONFIG, comparison.ours(net, CONFIG))
    for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q)
