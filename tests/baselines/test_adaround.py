"""adaround: the sigmoid and the regulariser, nearest rounding as the start, and never more error than it."""

import pytest
import torch
from conftest import Tiny, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.baselines import adaround
from datafree.core import quantized, quantizer
from datafree.core.graph import fold_all


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quick(**changes):
    return adaround.AdaRoundConfig(**({"steps": 200, "rate": 0.02} | changes))


LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 8, 3), (6, 3, 3)), "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), (8, 3, 3)),
    "grouped": (lambda: nn.Conv2d(8, 4, 1, groups=2), (8, 1, 1)), "linear": (lambda: nn.Linear(20, 5), (20,)),
}  # fmt: skip


def grid_of(weight, bits):
    return quantizer.affine_grid(*quantizer.weight_range(weight, per_channel=False), bits, zero_on_grid=False)


@pytest.fixture(params=LAYERS)
def case(request):
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make(), 0.5 + noise(300, *shape)


def test_start_is_the_fraction_and_decided_is_nearest_rounding(case):
    layer, _ = case
    weight = layer.weight.detach()
    grid = grid_of(weight, 4)
    exact = (weight - grid.origin) / grid.scale
    h = adaround.rectified_sigmoid(adaround.inverse_rectified_sigmoid(exact - exact.floor()))
    torch.testing.assert_close(h, exact - exact.floor(), atol=1e-5, rtol=1e-4)
    nearest = quantizer.from_integers(exact.floor() + (h > 0.5), grid)
    torch.testing.assert_close(nearest, quantizer.fake_quantize(weight, grid), atol=1e-6, rtol=1e-5)


def test_solution_lies_on_levels_next_to_the_weight_and_is_no_worse_than_nearest(case):
    layer, x = case
    before = layer.weight.clone()
    found = adaround.round_adaptively(layer, x, 3, quick())
    assert torch.equal(layer.weight, before) and found.error <= found.nearest
    grid = grid_of(before, 3)
    assert ((found.weight - before).abs() <= grid.scale * 1.001).all()
    index = (found.weight - grid.origin) / grid.scale
    torch.testing.assert_close(index, index.round(), atol=1e-3, rtol=0)
    assert index.min() > -0.5 and index.max() < 7.5
    change = adaround.response(layer, found.weight - before, x).square().mean()
    assert change.item() == pytest.approx(found.error, rel=1e-3)


def test_inputs_with_a_mean_are_worth_another_rounding():
    torch.manual_seed(0)
    layer = nn.Linear(40, 6)
    found = adaround.round_adaptively(layer, 1 + 0.3 * noise(500, 40), 3, quick())
    assert found.error < 0.7 * found.nearest and 0 < found.changed < 0.7


def test_few_weights_reach_the_best_of_all_roundings():
    torch.manual_seed(1)
    layer, x = nn.Linear(6, 1), 1 + 0.2 * noise(200, 6)
    found = adaround.round_adaptively(layer, x, 2, quick(steps=600))
    grid = grid_of(layer.weight, 2)
    floor = ((layer.weight - grid.origin) / grid.scale).floor()
    ups = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    weights = quantizer.from_integers((floor + ups).clamp(0, 3), grid)
    best = ((weights - layer.weight) @ x.T).square().mean(1).min().item()
    assert found.error <= 1.5 * best + 1e-9


def test_regulariser_is_zero_where_all_is_decided_and_largest_in_the_middle():
    decided = torch.tensor([0.0, 1.0, 1.0])
    for beta in (20.0, 2.0):
        assert adaround.undecided(decided, beta) == 0
        assert adaround.undecided(torch.full((4,), 0.5), beta) == 4
    h = torch.tensor([0.8])
    assert adaround.undecided(h, 20.0) > adaround.undecided(h, 2.0)
    v = torch.linspace(-20, 20, 401)
    h = adaround.rectified_sigmoid(v)
    assert h.min() == 0 and h.max() == 1 and (h.diff() >= 0).all() and h[200] == pytest.approx(0.5)


def test_beta_waits_then_falls():
    values = [adaround.beta_at(k, 100, (20.0, 2.0)) for k in (0, 20, 60, 100)]
    assert values == pytest.approx([20, 20, 11, 2])


def test_a_network_is_rounded_layer_by_layer():
    torch.manual_seed(0)
    net = fold_all(with_statistics(Tiny(), side=8))
    student = quantized.convert(quantized.prepare(net, 3, 8, per_channel=False, zero_on_grid=False))
    shapes = {"conv": (3,), "linear": (4,)}
    asked = {}

    def draw(name, size):
        asked[name] = size
        return 0.5 + noise(100, *shapes[name], *(size if name == "conv" else ()))

    found = adaround.round_network(student, net, draw, quick(steps=50))
    assert asked == {"conv": (3, 3), "linear": (1, 1)} and set(found) == set(shapes)
    assert torch.equal(student.conv.core.weight, found["conv"].weight) and student.conv.core.bias is not None
    assert all(r.error <= r.nearest for r in found.values())


@pytest.mark.parametrize("x", [noise(4, 6), noise(4, 6, 5, 5), torch.full((4, 6, 3, 3), torch.nan)])
def test_inputs_of_another_shape_or_nan_are_refused(x):
    with pytest.raises(DataFreeError, match="finite inputs as large as the kernel"):
        adaround.round_adaptively(nn.Conv2d(6, 8, 3), x, 4, quick())


def test_a_rate_that_diverges_is_named():
    layer = nn.Linear(5, 2)
    with pytest.raises(DataFreeError, match="adaptive rounding diverged"):
        adaround.round_adaptively(layer, torch.full((8, 5), 1e30), 4, quick())
