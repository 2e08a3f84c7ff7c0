"""The equations of the quantiser: guarantees, torch's own as an oracle, and the fast kernels against the plain functions."""

import pytest
import torch
from conftest import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree.core import quantizer

ends = st.tuples(st.floats(-50, 50), st.floats(-50, 50)).map(sorted).filter(lambda r: r[1] - r[0] > 1e-3)
widths = st.integers(2, 8)
both_grids = pytest.mark.parametrize("zero_on_grid", [True, False])


def grid_of(low, high, bits, zero_on_grid=True):
    return quantizer.affine_grid(torch.tensor(low), torch.tensor(high), bits, zero_on_grid)


@settings(max_examples=60)
@given(ends, widths, st.booleans(), st.integers(0, 2**31))
def test_quantizer_guarantees(ends, bits, zero_on_grid, seed):
    grid = grid_of(*ends, bits, zero_on_grid)
    x = torch.empty(500).uniform_(-60, 60, generator=seeded(seed))
    integers = quantizer.to_integers(x, grid)
    assert integers.min() >= 0 and integers.max() <= 2**bits - 1 and torch.equal(integers, integers.round())
    q = quantizer.fake_quantize(x, grid)
    torch.testing.assert_close(quantizer.from_integers(integers, grid), q)
    assert len(q.unique()) <= 2**bits
    torch.testing.assert_close(quantizer.fake_quantize(q, grid), q, rtol=1e-4, atol=1e-5)  # idempotent
    bottom, top = quantizer.from_integers(torch.tensor([0.0, grid.top]), grid)
    inside = (x >= bottom) & (x <= top)
    assert ((q - x)[inside].abs() <= grid.scale / 2 * 1.001 + 1e-5).all()


@settings(max_examples=40)
@given(ends, widths)
def test_zero_is_a_level_or_the_ends_are(ends, bits):
    assert quantizer.fake_quantize(torch.zeros(1), grid_of(*ends, bits)).item() == 0
    low, high = map(torch.tensor, ends)
    kept = quantizer.fake_quantize(torch.stack([low, high]), grid_of(*ends, bits, zero_on_grid=False))
    torch.testing.assert_close(kept, torch.stack([low, high]), rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(ends, widths, st.integers(0, 2**31))
def test_equations_13_and_14_as_they_are_printed(ends, bits, seed):
    low, high = ends
    x = torch.empty(500).uniform_(-60, 60, generator=seeded(seed)).double()
    step = (high - low) / (2**bits - 1)
    printed = ((x.clamp(low, high) - low) / step).round()
    grid = quantizer.affine_grid(torch.tensor(low).double(), torch.tensor(high).double(), bits, zero_on_grid=False)
    decided = (((x.clamp(low, high) - low) / step) % 1 - 0.5).abs() > 1e-3  # half-way values may go either way
    torch.testing.assert_close(quantizer.to_integers(x, grid)[decided], printed[decided])
    torch.testing.assert_close(quantizer.from_integers(printed, grid), printed * step + low, rtol=1e-5, atol=1e-5)


@settings(max_examples=60)
@given(ends, widths)
def test_quantizer_agrees_with_torch_in_values_and_gradient(ends, bits):
    grid = grid_of(*ends, bits)
    x = torch.linspace(-60, 60, 997)
    # A value half-way between two levels may fall to either side: leave those out.
    x = x[((x / grid.scale) % 1 - 0.5).abs() > 1e-2].requires_grad_()
    ours = quantizer.fake_quantize(x, grid)
    library = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, 0, grid.top)
    torch.testing.assert_close(ours, library)
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, library)]
    assert (grads[0] == grads[1]).float().mean() > 0.99  # they may differ in the cell at each end of the range


def test_gradients_pass_until_the_integer_is_clipped():
    grid = grid_of(-1.0, 0.5, 2, zero_on_grid=False)  # levels -1, -0.5, 0, 0.5
    x = torch.tensor([-1.3, -1.2, -0.4, 0.7, 0.8], requires_grad=True)
    for rounded in (quantizer.fake_quantize, quantizer.fake_quantize_tensor):
        (gradient,) = torch.autograd.grad(rounded(x, grid).sum(), x)
        assert gradient.tolist() == [0, 1, 1, 1, 0]


@both_grids
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.5), (0.0, 2.0), (-2.0, 0.0), (0.5, 2.0), (-3.0, -1.0)])
def test_kernels_have_the_values_and_the_gradient_of_the_equation(bits, low, high, zero_on_grid):
    x = (2 * torch.randn(2000, generator=seeded(bits))).requires_grad_()
    grid = grid_of(low, high, bits, zero_on_grid)
    plain, fast = quantizer.fake_quantize(x, grid), quantizer.fake_quantize_tensor(x, grid)
    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(quantizer.round_to_grid(x, grid), plain.detach(), rtol=0, atol=1e-6)
    one, two = (torch.autograd.grad((y * plain.detach()).sum(), x)[0] for y in (plain, fast))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    assert (one == 0).any() and (one != 0).any()


@both_grids
def test_rounding_leaves_its_input_and_its_precision_alone(zero_on_grid):
    x = torch.randn(100, generator=seeded()).double()
    before, grid = x.clone(), grid_of(-1.0, 1.0, 4, zero_on_grid)
    assert quantizer.round_to_grid(x, grid).dtype == torch.float64 and torch.equal(x, before)
    assert quantizer.round_to_grid(x.bfloat16(), grid).dtype == torch.float32


def test_training_quantiser_in_bf16_is_within_bf16_of_float():
    x = 3 * torch.rand(1000, generator=seeded())
    grid = grid_of(0.0, 3.0, 4)
    low = quantizer.fake_quantize_tensor(x.bfloat16(), grid)
    assert low.dtype == torch.bfloat16
    off = (low.float() - quantizer.fake_quantize_tensor(x, grid)).abs()
    assert (off > 0.5 * grid.scale).float().mean() < 0.05  # rounded to the neighbour near a boundary
    assert off.max() < 1.1 * grid.scale


@pytest.mark.parametrize("grid", [grid_of(0.0, 3.0, 8), grid_of(0.5, 3.0, 4, zero_on_grid=False)])
def test_many_bits_and_shifted_grids_are_rounded_in_float(grid):
    x = 3 * torch.rand(1000, generator=seeded()).bfloat16()
    fine = quantizer.fake_quantize_tensor(x, grid)
    assert fine.dtype == torch.float32
    torch.testing.assert_close(fine, quantizer.fake_quantize(x.float(), grid), rtol=0, atol=1e-6)


@both_grids
def test_a_range_without_width_keeps_its_value(zero_on_grid):
    for value in (0.0, 1.0) if not zero_on_grid else (0.0,):
        grid, x = grid_of(value, value, 4, zero_on_grid), torch.full((5,), value)
        for rounded in (quantizer.fake_quantize, quantizer.round_to_grid, quantizer.fake_quantize_tensor):
            torch.testing.assert_close(rounded(x, grid), x)
            assert torch.isfinite(rounded(x + 3, grid)).all()


@both_grids
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (7, 4), (6, 1, 3, 3)])
def test_weights_agree_with_the_equation(bits, shape, per_channel, zero_on_grid):
    weight = torch.randn(shape, generator=seeded()) * torch.logspace(-3, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight.requires_grad_()
    grid = quantizer.affine_grid(*quantizer.weight_range(weight, per_channel), bits, zero_on_grid)
    plain = quantizer.fake_quantize(weight, grid)
    for fast in (
        quantizer.quantize_weight(weight, bits, per_channel, zero_on_grid),
        quantizer.quantize_weight(weight.detach(), bits, per_channel, zero_on_grid),
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-6)
    live = quantizer.quantize_weight(weight, bits, per_channel, zero_on_grid)
    one, two = (torch.autograd.grad((y * plain.detach()).sum(), weight)[0] for y in (plain, live))
    assert torch.isclose(one, two, rtol=1e-3, atol=1e-6).float().mean() > 0.97  # half-way values may go either way
    rows = plain if per_channel else [plain]
    assert all(len(row.unique()) <= 2**bits for row in rows)


def test_weights_without_zero_on_the_grid_keep_their_extremes():
    w = torch.randn(8, 3, 3, 3, generator=seeded())
    q = quantizer.quantize_weight(w, 3, per_channel=False, zero_on_grid=False)
    assert len(q.unique()) <= 8
    torch.testing.assert_close(torch.stack([q.min(), q.max()]), torch.stack([w.min(), w.max()]))


@both_grids
def test_per_channel_is_never_coarser_than_per_tensor(zero_on_grid):
    weight = torch.randn(8, 4, 3, 3, generator=seeded()) * torch.logspace(-2, 0, 8).view(-1, 1, 1, 1)
    errors = [
        (quantizer.quantize_weight(weight, 4, p, zero_on_grid) - weight).square().mean().item() for p in (True, False)
    ]
    assert errors[0] < errors[1]


@both_grids
def test_all_zero_channel_stays_zero(zero_on_grid):
    weight = torch.randn(3, 2, 3, 3, generator=seeded())
    weight[1] = 0
    assert quantizer.quantize_weight(weight, 4, zero_on_grid=zero_on_grid)[1].abs().max() == 0


def test_ranges_of_weights_have_a_shape_that_broadcasts():
    weight = torch.randn(4, 3, 2, 2, generator=seeded())
    low, high = quantizer.weight_range(weight)
    assert low.shape == (4, 1, 1, 1) and (weight >= low).all() and (weight <= high).all()
    assert quantizer.weight_range(weight, per_channel=False) == (weight.min(), weight.max())


def test_held_limits_are_used_in_place_of_the_weights_own():
    weight = torch.randn(4, 3, 2, 2, generator=seeded())
    limits = quantizer.weight_range(weight)
    grid = quantizer.affine_grid(*limits, 4)
    expected = quantizer.fake_quantize(3 * weight, grid)
    torch.testing.assert_close(quantizer.quantize_weight(3 * weight, 4, limits=limits), expected, rtol=1e-4, atol=1e-6)
