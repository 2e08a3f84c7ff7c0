"""Calibration on images, and the whole method."""

import pytest
import torch

import datafree
from datafree.core import quantized
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, state_hash
from datafree.papers.knowledge_within import calibration, distillation, synthesis


def config(**changes):
    return synthesis.SynthesisConfig(
        **{"batch": 8, "steps": 6, "copies": 2, "precision": "float32", "kernel": 3} | changes
    )


def test_calibration_finds_the_ranges_of_its_pool(net):
    pool = generated(torch.rand(40, 3, 16, 16), "pool")
    student = quantized.prepare(net, 8, 8)
    calibration.calibrate(student, pool, calibration.KnowledgeWithin(steps=3, batch=32, chunk=32, augment=False))
    first = quantized.quantized_layers(student)[0][1]
    low, high = (pool.pixels - net[0].mean).div(net[0].std).aminmax()
    assert len(list(calibration.draws(pool, calibration.KnowledgeWithin(steps=3, batch=32)))) == 3
    assert low * 1.05 <= first.low <= low * 0.8 and high * 0.8 <= first.high <= high * 1.05


def test_compress_end_to_end(net):
    before = state_hash(net)
    settings_ = datafree.KnowledgeWithin(
        images=8, steps=2, batch=16, synthesis_steps=2, copies=1, weight_bits=8, act_bits=8
    )
    result = datafree.compress(net, settings_, shape=(3, 32, 32))
    assert state_hash(net) == before
    assert result.report["images"] == "BNS" and result.report["bytes"] < 0.5 * result.report["bytes_float"]
    x = torch.rand(2, 3, 32, 32)
    assert (result.model(x) - net(x)).abs().max() < 0.2 * net(x).abs().max()


def test_compress_distils_where_it_is_asked_to():
    net = load_network("resnet20")

    pool = load_images("cifar10-stub", "train").per_class(2)
    schedule = distillation.DistillConfig(steps=2, batch=4, rate=1e-4, optimizer="adam")
    config = calibration.KnowledgeWithin(weight_bits=2, steps=1, batch=16, distillation=schedule)
    taught, plain = (
        datafree.compress(net, c, pool) for c in (config, config.model_copy(update={"distillation": None}))
    )
    assert taught.report["distillation_loss"] > 0 and "distillation_loss" not in plain.report
    assert not torch.equal(taught.model.conv1.inner.weight, plain.model.conv1.inner.weight)
    assert torch.equal(plain.model.conv1.inner.weight, net.conv1.weight)


def test_noise_is_no_teacher_for_a_batchnorm_that_adapts():
    schedule = distillation.DistillConfig(steps=2, batch=4)
    config = calibration.KnowledgeWithin(scheme="gaussian", images=8, steps=1, batch=16, distillation=schedule)
    with pytest.raises(DataFreeError, match="set distillation.batchnorm to frozen"):
        datafree.compress(load_network("resnet20"), config)


def test_ranges_measured_in_bf16_are_those_of_float_to_a_percent():
    net, pool = load_network("resnet20"), load_images("cifar10-stub", "train").per_class(5)
    ranges = []
    for precision in ("float32", "bf16"):
        student = quantized.prepare(net, 4, 4)
        calibration.calibrate(student, pool, calibration.KnowledgeWithin(steps=1, batch=32, precision=precision))
        ranges.append(torch.stack([layer.high - layer.low for _, layer in quantized.quantized_layers(student)]))
    assert torch.allclose(*ranges, rtol=0.02) and not torch.equal(*ranges)
