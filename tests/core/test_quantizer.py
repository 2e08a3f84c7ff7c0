"""The quantiser against torch's own, its guarantees, and quantised networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.core import observers, quantized, quantizer
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash

ends = st.tuples(st.floats(-50, 50), st.floats(-50, 50)).map(sorted).filter(lambda r: r[1] - r[0] > 1e-3)
widths = st.integers(2, 8)


@settings(max_examples=60)
@given(ends, widths, st.integers(0, 2**31))
def test_quantizer_guarantees(ends, bits, seed):
    low, high = map(torch.tensor, ends)
    scale, zero = quantizer.affine_parameters(low, high, bits)
    x = torch.empty(500).uniform_(-60, 60, generator=torch.Generator().manual_seed(seed))
    q = quantizer.fake_quantize(x, scale, zero, bits)
    assert len(q.unique()) <= 2**bits
    torch.testing.assert_close(quantizer.fake_quantize(q, scale, zero, bits), q)  # idempotent
    assert quantizer.fake_quantize(torch.zeros(1), scale, zero, bits).item() == 0
    bottom, top = -zero * scale, (2**bits - 1 - zero) * scale
    inside = (x >= bottom) & (x <= top)
    assert ((q - x)[inside].abs() <= scale / 2 * 1.001 + 1e-6).all()


@settings(max_examples=60)
@given(ends, widths)
def test_quantizer_agrees_with_torch_in_values_and_gradient(ends, bits):
    scale, zero = quantizer.affine_parameters(*map(torch.tensor, ends), bits)
    x = torch.linspace(-60, 60, 997)
    # A value half-way between two levels may fall to either side: leave those out.
    x = x[((x / scale) % 1 - 0.5).abs() > 1e-2].requires_grad_()
    ours = quantizer.fake_quantize(x, scale, zero, bits)
    library = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    torch.testing.assert_close(ours, library)
    grads = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, library)]
    assert (grads[0] == grads[1]).float().mean() > 0.99  # they may differ in the cell at each end of the range


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (7, 4), (6, 1, 3, 3)])
def test_weights_per_channel_agree_with_the_equation(bits, shape):
    weight = torch.randn(shape) * torch.logspace(-3, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    scale, zero = quantizer.affine_parameters(*quantizer.weight_range(weight), bits)
    column = (-1, *[1] * (len(shape) - 1))
    expected = quantizer.fake_quantize(weight, scale.view(column), zero.view(column), bits)
    torch.testing.assert_close(quantizer.quantize_weight(weight, bits), expected, rtol=1e-4, atol=1e-6)
    assert all(len(channel.unique()) <= 2**bits for channel in expected)


def test_per_channel_is_never_coarser_than_per_tensor():
    weight = torch.randn(8, 4, 3, 3) * torch.logspace(-2, 0, 8).view(-1, 1, 1, 1)
    errors = [(quantizer.quantize_weight(weight, 4, p) - weight).square().mean().item() for p in (True, False)]
    assert errors[0] < errors[1]


def test_all_zero_channel_stays_zero():
    weight = torch.randn(3, 2, 3, 3)
    weight[1] = 0
    assert quantizer.quantize_weight(weight, 4)[1].abs().max() == 0


def test_chunk_extremes_by_hand():
    x = torch.zeros(32, 2, 3, 3)
    x[3, 0, 0, 0], x[20, 1, 2, 2], x[31, 0, 1, 1] = 5.0, 7.0, -4.0
    low, high = observers.chunk_extremes(x, 16)
    assert (low.item(), high.item()) == (-2.0, 6.0)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 20))
def test_chunk_extremes_in_any_layout(n, chunk):
    x = torch.randn(n, 3, 4, 5)
    layouts = [x, x.contiguous(memory_format=torch.channels_last)]
    whole = n // chunk * chunk
    parts = x[:whole].split(chunk) if whole else [x]
    expected = [torch.stack([f(p) for p in parts]).mean() for f in (torch.min, torch.max)]
    for layout in layouts:
        torch.testing.assert_close(torch.stack(observers.chunk_extremes(layout, chunk)), torch.stack(expected))


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        Normalize(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def measured(weight_bits, act_bits, **options):
    net = network()
    student = quantized.prepare(net, weight_bits, act_bits, **options)
    with quantized.observing(student), torch.no_grad():
        student(torch.rand(64, 3, 9, 7, generator=torch.Generator().manual_seed(0)))
    return net, student


def test_many_bits_change_little_and_fewer_bits_change_more():
    x = torch.rand(64, 3, 9, 7, generator=torch.Generator().manual_seed(0))  # the images that set the ranges
    errors = []
    for bits in (16, 8, 4, 2):
        net, student = measured(bits, bits)
        errors.append((student(x) - net(x)).square().mean().item())
    assert errors[0] < 1e-5 and errors == sorted(errors)


def test_observing_is_the_float_network_and_ranges_do_not_depend_on_bits():
    net, a = measured(8, 8)
    _, b = measured(2, 2)
    for (_, p), (_, q) in zip(quantized.quantized_layers(a), quantized.quantized_layers(b), strict=True):
        torch.testing.assert_close(p.high, q.high)
    x = torch.rand(4, 3, 9, 7)
    with quantized.observing(a):
        torch.testing.assert_close(a(x), net(x))


def test_observing_starts_anew():
    _, student = measured(4, 4)
    with quantized.observing(student), torch.no_grad():
        student(torch.full((16, 3, 9, 7), 0.5))
    fresh = quantized.prepare(network(), 4, 4)
    with quantized.observing(fresh), torch.no_grad():
        fresh(torch.full((16, 3, 9, 7), 0.5))
    for (_, p), (_, q) in zip(quantized.quantized_layers(student), quantized.quantized_layers(fresh), strict=True):
        torch.testing.assert_close(p.high, q.high)


def test_edges_keep_their_own_width():
    _, student = measured(2, 4, edge_bits=8)
    found = [(layer.weight_bits, layer.act_bits) for _, layer in quantized.quantized_layers(student)]
    assert found == [(8, 8), (2, 4), (8, 8)]
    quantized.set_bits(student, 3, 5)
    assert {(layer.weight_bits, layer.act_bits) for _, layer in quantized.quantized_layers(student)} == {(3, 5)}


def test_baked_equals_live_and_gives_the_float_weights_back():
    _, student = measured(3, 4)
    x, before = torch.rand(4, 3, 9, 7), state_hash(student)
    live = student(x)
    with quantized.baked(student):
        torch.testing.assert_close(student(x), live)
    assert state_hash(student) == before
    torch.testing.assert_close(student(x), live)


def test_gradient_reaches_the_master_weights():
    _, student = measured(2, 4)
    student(torch.rand(4, 3, 9, 7)).square().sum().backward()
    assert all(layer.inner.weight.grad.abs().sum() > 0 for _, layer in quantized.quantized_layers(student))


def test_quantized_leaves_the_original_alone():
    net = network()
    before = state_hash(net)
    quantized.prepare(net, 2, 2)
    assert state_hash(net) == before and not quantized.quantized_layers(net)


@pytest.mark.parametrize("bits", [{"weight_bits": 1, "act_bits": 4}, {"weight_bits": 4, "act_bits": 17}])
def test_bits_out_of_range(bits):
    with pytest.raises(DataFreeError, match="must lie between"):
        quantized.prepare(network(), **bits)
    with pytest.raises(DataFreeError, match="edge_bits is 1"):
        quantized.prepare(network(), 4, 4, edge_bits=1)


def test_uncalibrated_network_says_so():
    with pytest.raises(DataFreeError, match="before its input range was measured"):
        quantized.prepare(network(), 4, 4)(torch.rand(1, 3, 8, 8))


def test_nothing_to_quantize():
    with pytest.raises(DataFreeError, match="no convolution or linear layer"):
        quantized.prepare(nn.Sequential(nn.ReLU()), 4, 4)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_training_quantiser_has_the_values_and_the_gradient_of_torch(bits):
    x = torch.randn(500, generator=torch.Generator().manual_seed(bits)).requires_grad_()
    scale, zero = quantizer.affine_parameters(torch.tensor(-1.0), torch.tensor(1.5), bits)
    ours = quantizer.fake_quantize_tensor(x, scale, zero, bits)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 2**bits - 1)
    assert torch.allclose(ours, theirs, atol=1e-6)
    mine, torchs = (torch.autograd.grad((y * y.detach()).sum(), x)[0] for y in (ours, theirs))
    assert torch.allclose(mine, torchs, atol=1e-6) and (mine == 0).any() and (mine != 0).any()


def test_training_quantiser_in_bf16_is_within_bf16_of_float():
    x = 3 * torch.rand(1000, generator=torch.Generator().manual_seed(0))
    scale, zero = quantizer.affine_parameters(torch.tensor(0.0), torch.tensor(3.0), 4)
    low = quantizer.fake_quantize_tensor(x.bfloat16(), scale, zero, 4).float()
    off = (low - quantizer.fake_quantize_tensor(x, scale, zero, 4)).abs()
    assert (off > 0.5 * scale).float().mean() < 0.05  # rounded to the neighbour near a boundary
    assert off.max() < 1.1 * scale


def test_frozen_weight_ranges_stay_where_they_were():
    layer = quantized.QuantizedLayer(torch.nn.Conv2d(2, 3, 1), 4, 4)
    quantized.freeze_weight_ranges(layer)
    limits = [limit.clone() for limit in layer.weight_limits]
    with torch.no_grad():
        layer.inner.weight.mul_(3)
    kept = layer.quantized_weight().detach().flatten(1)
    assert (kept.amax(1) <= limits[1].clamp_min(0) + 0.1 * (limits[1] - limits[0])).all()
    layer.weight_limits = None
    assert layer.quantized_weight().abs().max() > 2 * kept.abs().max()
