"""aciq: the least error of cutting and rounding, and ranges from BatchNorm alone."""

import math

import pytest
import torch
from conftest import seeded, uneven_network

from datafree.baselines import aciq
from datafree.core import quantized, quantizer
from datafree.core.graph import fold_all, trace
from datafree.papers.layerwise import generated_inputs


@pytest.mark.parametrize(("bits", "printed"), [(2, 1.71), (3, 2.15), (4, 2.55)])
def test_the_best_clip_is_the_published_one(bits, printed):
    assert aciq.best_clip(bits) == pytest.approx(printed, abs=0.01)


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("alpha", [1.5, 2.5, 4.0])
def test_the_formula_is_the_error_of_rounding(bits, alpha):
    z = torch.randn(400_000, generator=seeded(), dtype=torch.float64)
    step = 2 * alpha / 2**bits
    cut = z.clamp(-alpha, alpha)
    inside = (torch.floor(z / step) + 0.5) * step  # 2^M cells over the range, each rounded to its middle
    found = torch.where(z.abs() > alpha, cut, inside)
    assert aciq.clipping_error(alpha, bits) == pytest.approx((found - z).square().mean().item(), rel=0.15)


def test_more_bits_cut_less():
    clips = [aciq.best_clip(bits) for bits in range(2, 9)]
    assert clips == sorted(clips) and clips[-1] < 6


def test_ranges_come_from_moments_alone():
    net = uneven_network(double=False)
    graph = trace(net)
    moments = generated_inputs.stored_moments(net, graph)
    student = quantized.prepare(fold_all(net, graph), 8, 4)
    aciq.set_ranges(student, graph, moments)
    for name, layer in quantized.quantized_layers(student):
        low, high = layer.low.item(), layer.high.item()
        assert math.isfinite(low) and math.isfinite(high) and low < high, name
        rectified = graph.feeding(name).kind == "act"
        assert (low == 0) == rectified or graph.feeding(name).kind == "pool"


def test_a_normal_input_is_rounded_better_than_by_its_extremes():
    z = torch.randn(20_000, generator=seeded(1))
    reach = aciq.best_clip(3)
    errors = [
        (quantizer.round_to_grid(z, quantizer.affine_grid(low, high, 3)) - z).square().mean()
        for low, high in ((torch.tensor(-reach), torch.tensor(reach)), (z.min(), z.max()))
    ]
    assert errors[0] < 0.5 * errors[1]
