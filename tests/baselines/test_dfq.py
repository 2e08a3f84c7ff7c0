"""What is taken from Data-Free Quantization: absorption, correction, expectations and ranges from BatchNorm alone."""

import pytest
import torch
from conftest import SmallNet, network_named, seeded, uneven_network, with_statistics
from torch import nn

from datafree.baselines import dfq
from datafree.core import quantized
from datafree.core.batchnorm import Moments
from datafree.core.graph import Feed, fold_all, trace
from datafree.errors import DataFreeError
from datafree.papers.layerwise import equalization, generated_inputs


def test_absorption_keeps_the_function_where_relu_never_cuts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6),
                        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)).double()  # fmt: skip
    net = with_statistics(net.float(), side=12).double()
    for i in (1, 4):
        net[i].weight.data.mul_(0.2), net[i].bias.data.add_(20)
        net[i].train()(net[:i](torch.rand(8, 3, 12, 12, dtype=torch.float64)))
        net[i].eval()
    wiring = trace(net)
    found, x = equalization.equalize(net, graph=wiring), torch.rand(3, 3, 12, 12, dtype=torch.float64)
    before = generated_inputs.tracked_moments(generated_inputs.stored_moments(net, wiring), wiring, found)
    before = {
        name: Moments(beta, 100 * var) for name, (beta, var) in before.items()
    }  # nothing lies 30 deviations below
    absorbed, after = dfq.absorb_bias(found.model, wiring, before)
    torch.testing.assert_close(absorbed(x), net(x))
    for name in ("1", "4"):
        torch.testing.assert_close(after[name].mean, 3 * after[name].var.sqrt())
        assert (after[name].mean < before[name].mean).all()
    assert not torch.equal(absorbed[0].bias, found.model[0].bias)


def test_absorption_leaves_buffers_and_other_activations_alone():
    net = uneven_network(nn.ReLU6)
    wiring = trace(net)
    moments = {n: Moments(b + 9, v) for n, (b, v) in generated_inputs.stored_moments(net, wiring).items()}
    found = equalization.equalize(net, graph=wiring)
    absorbed, after = dfq.absorb_bias(found.model, wiring, moments)
    for a, b in zip(absorbed.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert after == moments


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid, nn.Hardswish])
def test_expectations_agree_with_draws(act):
    feed = Feed("act", "f", terms=(Feed("norm", "bn", 4),), apply=act())
    moments = {"bn": Moments(torch.tensor([1.0, -1.0, 5.0, 0.0]), torch.tensor([0.25, 4.0, 4.0, 0.0]))}
    mean, variance = dfq.gaussian(feed, moments, 4)
    x = act()(generated_inputs.block_output(moments["bn"].mean, moments["bn"].var.sqrt(), (50_000, 2, 2), seeded()))
    torch.testing.assert_close(mean, x.mean((0, 2, 3)), rtol=0.02, atol=0.01)
    torch.testing.assert_close(variance, x.var((0, 2, 3)), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small", "googlenet", "densenet121"])
def test_moments_of_trees_are_those_of_imitated_inputs(name):
    net = network_named(name)
    wiring = trace(net)
    moments = generated_inputs.stored_moments(net, wiring)
    for layer in wiring.layers[1::7]:
        x = generated_inputs.layer_input(wiring, layer.name, moments, (4000, 1, 1), seeded()).flatten(1)
        mean, variance = dfq.gaussian(wiring.feeding(layer.name), moments, layer.inputs)
        # sums of rectified terms are not normal, which is what the formulas take them for
        nested = str(wiring.feeding(layer.name)).count("relu") > 1
        spread = variance.sqrt().mean()
        assert (x.mean(0) - mean).abs().mean() < (0.2 if nested else 0.03) * spread
        assert (x.std(0) - variance.sqrt()).abs().mean() < (0.2 if nested else 0.03) * spread
        low, high = dfq.six_sigma_range(wiring.feeding(layer.name), moments, layer.inputs)
        inside = (x >= low - 1e-5) & (x <= high + 1e-5)
        assert inside.float().mean() > 0.999


def test_six_deviations_of_a_known_normal():
    norm = Feed("norm", "bn", 2)
    moments = {"bn": Moments(torch.tensor([1.0, -1.0]), torch.tensor([0.25, 4.0]))}
    low, high = dfq.six_sigma_range(norm, moments, 2)
    torch.testing.assert_close(low, torch.tensor([-2.0, -13.0]))
    torch.testing.assert_close(high, torch.tensor([4.0, 11.0]))
    relu = Feed("act", "relu", terms=(norm,), apply=torch.relu)
    low, high = dfq.six_sigma_range(relu, moments, 2)
    torch.testing.assert_close(low, torch.zeros(2)), torch.testing.assert_close(high, torch.tensor([4.0, 11.0]))


def test_products_have_no_moments():
    leaf = Feed("norm", "bn", 2)
    product = Feed("product", "mul", terms=(leaf, leaf))
    assert not dfq.has_moments(product) and dfq.has_moments(leaf)
    with pytest.raises(DataFreeError, match="do not follow"):
        dfq.gaussian(product, {}, 2)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


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
