"""ranges: each rule against its definition, and the mean that bias correction gives back."""

import pytest
import torch

from datafree.core import observers, quantized, quantizer
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network, state_hash
from datafree.papers.knowledge_within import calibration


def values(n=4000, seed=0):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x[0] = 40.0  # an outlier
    return x


def error(x, ends, bits=4):
    return (quantizer.round_to_grid(x, *quantizer.affine_parameters(*ends, bits), bits) - x).square().mean()


def test_percentiles_leave_the_stated_share_outside():
    x = values(100_000)
    low, high = observers.percentile_range(x, 4)
    outside = ((x < low) | (x > high)).float().mean().item()
    assert outside == pytest.approx(1 - observers.PERCENTILE, rel=0.1)


def test_percentiles_of_a_constant_are_the_constant():
    low, high = observers.percentile_range(torch.full((10,), 3.0), 4)
    assert low == high == 3.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_range_is_never_worse_than_extremes(bits):
    x = values()
    assert error(x, observers.mse_range(x, bits), bits) <= error(x, observers.extremes(x, bits), bits) + 1e-9


def test_mse_range_is_the_best_of_its_shrinks():
    x = values(3000, 1)
    best = error(x, observers.mse_range(x, 3), 3)
    all_errors = [error(x, (s * x.amin(), s * x.amax()), 3) for s in observers.SHRINKS]
    assert best <= min(all_errors) + 1e-9 and min(all_errors) < max(all_errors)


@pytest.fixture(scope="module")
def case():
    net = load_network("resnet20")
    pool = load_images("cifar10-stub", "train").per_class(5)
    return net, pool.floats()


def test_set_ranges_with_extremes_agrees_with_calibration_in_one_chunk(case):
    net, images = case
    ours = quantized.set_ranges(quantized.prepare(net, 4, 4), images, observers.extremes)
    whole = generated(images, "all")
    student = quantized.prepare(net, 4, 4)
    with torch.no_grad(), quantized.observing(student, chunk=len(images)):
        student(whole.floats())
    for (_, a), (_, b) in zip(quantized.quantized_layers(ours), quantized.quantized_layers(student)):
        assert torch.allclose(a.low, b.low) and torch.allclose(a.high, b.high)
        assert a.batches == 1 and not a._forward_hooks


def test_bias_correction_gives_back_the_means(case):
    net, images = case
    student = quantized.set_ranges(quantized.prepare(net, 3, 4), images, observers.extremes)
    names = [n for n, _ in quantized.quantized_layers(student)]
    wanted = quantized._channel_means(net, names, images)
    off = max((wanted[n] - m).abs().max() for n, m in quantized._channel_means(student, names, images).items())
    quantized.correct_bias(student, net, images)
    now = max((wanted[n] - m).abs().max() for n, m in quantized._channel_means(student, names, images).items())
    assert now < 1e-3 < off


def test_bias_correction_leaves_the_teacher_alone(case):
    net, images = case
    before = state_hash(net)
    student = calibration.calibrate(
        quantized.prepare(net, 4, 4), generated(images, "x"), calibration.KnowledgeWithin(steps=1)
    )
    quantized.correct_bias(student, net, images[:10])
    assert state_hash(net) == before
