"""intervals: which layers are taught, on what noise, and that teaching brings each layer nearer to its original."""

import copy

import pytest
import torch

from datafree.core import quantized
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.networks.weights import load_network, state_hash
from datafree.papers.knowledge_within import calibration, intervals, synthesis


@pytest.fixture(scope="module")
def net():
    return load_network("resnet20")


@pytest.fixture(scope="module")
def student(net):
    noise = generated(synthesis.gaussian_images(net, 64, 32, torch.Generator().manual_seed(0)), "G")
    made = quantized.prepare(net, 2, 4, edge_bits=4)
    return calibration.calibrate(made, noise, calibration.KnowledgeWithin(steps=1, batch=64))


def test_every_quantised_layer_has_an_interval_with_its_norm(net, student):
    found = intervals.intervals(student, net)
    assert [i.name for i in found] == [n for n, _ in quantized.quantized_layers(student)]
    assert [len(i.teacher) for i in found] == [2] * 19 + [1]
    assert found[0].shape == (3, 32, 32) and found[-1].shape == (64,)


def test_inputs_inside_a_block_have_the_moments_of_a_rectified_gaussian(net, student):
    interval = next(i for i in intervals.intervals(student, net) if i.name == "layer2.1.conv2")
    x = intervals.draw_input(interval, net, 400, torch.Generator().manual_seed(1))
    beta, gamma = net.layer2[1].bn1.bias.detach(), net.layer2[1].bn1.weight.detach().abs()
    normal = torch.distributions.Normal(0, 1)
    wanted = beta * normal.cdf(beta / gamma) + gamma * normal.log_prob(beta / gamma).exp()
    assert x.shape == (400, 32, 16, 16) and x.min() >= 0
    assert torch.allclose(x.mean((0, 2, 3)), wanted, atol=0.02)


def test_every_input_has_the_shape_its_layer_wants(net, student):
    generator = torch.Generator().manual_seed(0)
    for interval in intervals.intervals(student, net):
        assert tuple(intervals.draw_input(interval, net, 2, generator).shape) == (2, *interval.shape)


def test_teaching_lowers_the_loss_and_leaves_the_teacher_alone(net, student):
    before, taught = state_hash(net), copy.deepcopy(student)
    schedule = FitConfig(steps=12, rate=1e-3, optimizer="adam")
    history = intervals.distill_intervals(taught, net, schedule, batch=8, progress=False)
    assert sum(history[-3:]) < 0.95 * sum(history[:3])
    assert state_hash(net) == before


def test_a_float_copy_has_nothing_to_learn(net):
    twin = quantized.prepare(net, 16, 16)
    noise = generated(synthesis.gaussian_images(net, 64, 32, torch.Generator().manual_seed(0)), "G")
    calibration.calibrate(twin, noise, calibration.KnowledgeWithin(steps=2, batch=64))
    for _, layer in quantized.quantized_layers(twin):
        layer.low, layer.high = torch.tensor(-60.0), torch.tensor(60.0)
    history = intervals.distill_intervals(twin, net, FitConfig(steps=1, rate=1e-6), batch=4, progress=False)
    assert history[0] < 1e-3
