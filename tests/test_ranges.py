"""ranges: each rule against its definition, and the mean that bias correction gives back."""

import pytest
import torch

from datafree import data, models, quantize, ranges
from datafree.papers import knowledge_within as kw


def values(n=4000, seed=0):
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x[0] = 40.0  # an outlier
    return x


def error(x, ends, bits=4):
    return (quantize.round_to_grid(x, *quantize.affine_parameters(*ends, bits), bits) - x).square().mean()


def test_percentiles_leave_the_stated_share_outside():
    x = values(100_000)
    low, high = ranges.percentile_range(x, 4)
    outside = ((x < low) | (x > high)).float().mean().item()
    assert outside == pytest.approx(1 - ranges.PERCENTILE, rel=0.1)


def test_percentiles_of_a_constant_are_the_constant():
    low, high = ranges.percentile_range(torch.full((10,), 3.0), 4)
    assert low == high == 3.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_range_is_never_worse_than_extremes(bits):
    x = values()
    assert error(x, ranges.mse_range(x, bits), bits) <= error(x, ranges.extremes(x, bits), bits) + 1e-9


def test_mse_range_is_the_best_of_its_shrinks():
    x = values(3000, 1)
    best = error(x, ranges.mse_range(x, 3), 3)
    all_errors = [error(x, (s * x.amin(), s * x.amax()), 3) for s in ranges.SHRINKS]
    assert best <= min(all_errors) + 1e-9 and min(all_errors) < max(all_errors)


@pytest.fixture(scope="module")
def case():
    net = models.load("resnet20")
    pool = data.load("cifar10-stub", "train").per_class(5)
    return net, pool.floats()


def test_set_ranges_with_extremes_agrees_with_calibration_in_one_chunk(case):
    net, images = case
    ours = ranges.set_ranges(quantize.quantized(net, 4, 4), images, ranges.extremes)
    whole = data.generated(images, "all")
    student = quantize.quantized(net, 4, 4)
    with torch.no_grad(), quantize.observing(student, chunk=len(images)):
        student(whole.floats())
    for (_, a), (_, b) in zip(quantize.quantized_layers(ours), quantize.quantized_layers(student)):
        assert torch.allclose(a.low, b.low) and torch.allclose(a.high, b.high)
        assert a.batches == 1 and not a._forward_hooks


def test_bias_correction_gives_back_the_means(case):
    net, images = case
    student = ranges.set_ranges(quantize.quantized(net, 3, 4), images, ranges.extremes)
    names = [n for n, _ in quantize.quantized_layers(student)]
    wanted = ranges._channel_means(net, names, images)
    off = max((wanted[n] - m).abs().max() for n, m in ranges._channel_means(student, names, images).items())
    ranges.correct_bias(student, net, images)
    now = max((wanted[n] - m).abs().max() for n, m in ranges._channel_means(student, names, images).items())
    assert now < 1e-3 < off


def test_bias_correction_leaves_the_teacher_alone(case):
    net, images = case
    before = models.state_hash(net)
    student = kw.calibrate(quantize.quantized(net, 4, 4), data.generated(images, "x"), kw.KnowledgeWithin(steps=1))
    ranges.correct_bias(student, net, images[:10])
    assert models.state_hash(net) == before
