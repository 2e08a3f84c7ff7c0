"""The mathematics of BatchNorm statistics: divergence, capture, folding, recalibration."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, kl_divergence

from datafree.core import batchnorm
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import load_network, state_hash

number = st.floats(-20, 20)
positive = st.floats(1e-3, 400)


def doubles(*values):
    return [torch.tensor([v], dtype=torch.float64) for v in values]


@given(number, positive, number, positive)
def test_divergence_is_torchs_kl_in_both_directions(a, b, c, d):
    mu_hat, var_hat, mu, var = doubles(a, b, c, d)
    measured, stored = Normal(mu_hat, (var_hat + 1e-8).sqrt()), Normal(mu, var.sqrt())
    torch.testing.assert_close(batchnorm.bns_divergence(mu_hat, var_hat, mu, var), kl_divergence(measured, stored))
    torch.testing.assert_close(
        batchnorm.bns_divergence(mu_hat, var_hat, mu, var, reverse=True), kl_divergence(stored, measured)
    )


@given(number, positive, number, positive)
def test_divergence_is_never_negative_and_zero_only_when_equal(a, b, c, d):
    mu_hat, var_hat, mu, var = doubles(a, b, c, d)
    assert batchnorm.bns_divergence(mu_hat, var_hat, mu, var) >= -1e-12
    assert batchnorm.bns_divergence(mu, var, mu, var, eps=0.0).abs() < 1e-12
    assert batchnorm.bns_divergence(mu + 1, var, mu, var) > 0


@pytest.mark.parametrize("loss", [batchnorm.bns_divergence, batchnorm.moment_mse])
def test_constant_channels_give_finite_loss_and_gradient(loss):
    mu_hat = torch.zeros(3, requires_grad=True)
    var_hat = torch.zeros(3, requires_grad=True)
    value = loss(mu_hat, var_hat, torch.ones(3), torch.ones(3)).sum()
    grads = torch.autograd.grad(value, (mu_hat, var_hat))
    assert torch.isfinite(value) and all(torch.isfinite(g).all() for g in grads)


def test_moment_mse_is_zero_only_for_equal_moments():
    mu, var = torch.randn(5), torch.rand(5) + 0.1
    assert batchnorm.moment_mse(mu, var, mu, var).abs().max() < 1e-10
    assert (batchnorm.moment_mse(mu + 0.5, var, mu, var) > 0.2).all()


def network(momentum=0.1):
    torch.manual_seed(0)
    net = nn.Sequential(
        Normalize(), nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6, momentum=momentum), nn.ReLU(),
        nn.Conv2d(6, 6, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    net.train()
    for _ in range(5):
        net(torch.rand(8, 3, 13, 17))
    net[2].weight.data.uniform_(-2, 2)
    net[2].bias.data.uniform_(-1, 1)
    return net.eval()


def with_hooks(net, x):
    """Moments of every BatchNorm input, the slow and obvious way."""
    inputs = []
    handles = [m.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for _, m in batchnorm.layers(net)]
    output = net(x)
    for handle in handles:
        handle.remove()
    return output, [(z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)) for z in inputs]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 3, 13, 17), (1, 3, 32, 32), (7, 3, 5, 6)])
def test_capture_agrees_with_hooks_in_values_and_gradient(layout, shape):
    net, reference = network(), batchnorm.stored(network())
    x = torch.rand(shape).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(4)
    with batchnorm.capture(net) as seen:
        output = net(x)
        fast = batchnorm.mean_divergence(seen.moments, reference)
        (fast_grad,) = torch.autograd.grad(fast + (output @ weight).sum(), x)
    slow_output, moments = with_hooks(net, x)
    slow = batchnorm.mean_divergence(moments, reference)
    (slow_grad,) = torch.autograd.grad(slow + (slow_output @ weight).sum(), x)
    torch.testing.assert_close(output, slow_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-3, atol=1e-5 * slow_grad.abs().max().item())


def test_analytic_gradient_against_finite_differences():
    scale, shift = torch.rand(1, 2, 1, 1, dtype=torch.float64) + 0.5, torch.rand(1, 2, 1, 1, dtype=torch.float64)

    def function(z):
        return batchnorm.BatchNormWithMoments.apply(z, scale, shift)

    # float() inside the function makes single precision of it, so steps and tolerances are those of float32
    z = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, z, eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_and_the_plain_equation_agree_in_values_and_gradients(dtype):
    g = torch.Generator().manual_seed(0)
    z = (1 + 2 * torch.randn(6, 4, 5, 7, generator=g)).to(dtype)
    scale, shift = torch.rand(1, 4, 1, 1, generator=g) + 0.5, torch.randn(1, 4, 1, 1, generator=g)
    weights = torch.randn(z.shape, generator=g), torch.randn(4, generator=g), torch.randn(4, generator=g)
    found = []
    for way in (batchnorm.BatchNormWithMoments.apply, batchnorm.batchnorm_with_moments):
        x = z.clone().requires_grad_()
        values = way(x, scale, shift)
        loss = sum((w * v.float()).sum() for w, v in zip(weights, values))
        found.append((*values, *torch.autograd.grad(loss, x)))
    near = dict(rtol=2e-2, atol=4e-2) if dtype == torch.bfloat16 else dict(rtol=1e-4, atol=1e-5)
    for fast, plain in zip(*found):
        assert fast.dtype == plain.dtype
        torch.testing.assert_close(fast, plain, **near)


def test_capture_changes_nothing_and_cleans_up():
    net = network()
    net[1].weight.requires_grad_(False)
    net.train()
    before, flags = state_hash(net), [p.requires_grad for p in net.parameters()]
    with pytest.raises(RuntimeError, match="on purpose"), batchnorm.capture(net):
        net(torch.rand(2, 3, 8, 8))
        raise RuntimeError("on purpose")
    assert state_hash(net) == before
    assert [p.requires_grad for p in net.parameters()] == flags
    assert net.training and net[2].training
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_capture_under_bf16_is_near_float32():
    net, reference, x = network(), batchnorm.stored(network()), torch.rand(64, 3, 16, 16)
    values = []
    for bf16 in (False, True):
        with torch.no_grad(), batchnorm.capture(net) as seen, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            net(x)
        values.append(batchnorm.mean_divergence(seen.moments, reference).item())
    assert values[1] == pytest.approx(values[0], rel=0.05, abs=1e-3)


def test_layers_are_missing():
    with pytest.raises(DataFreeError, match="no BatchNorm"):
        batchnorm.layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    with pytest.raises(DataFreeError, match="keeps no running statistics"):
        batchnorm.layers(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)))


def test_unreached_layer_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.used(x)

    net = Half().eval()
    with batchnorm.capture(net) as seen, pytest.raises(DataFreeError, match="1 of 2 BatchNorm layers were not reached"):
        net(torch.rand(2, 3, 4, 4))
        _ = seen.moments
    with pytest.raises(DataFreeError, match="1 of 2 BatchNorm layers were not reached"):
        batchnorm.image_moments(net, generated(torch.rand(2, 3, 4, 4), "x"))


def test_measure_pools_batches_exactly():
    net = network()
    images = generated(torch.rand(10, 3, 8, 9), "x")
    whole, parts = batchnorm.measure(net, images, batch=10), batchnorm.measure(net, images, batch=3)
    for (m1, v1), (m2, v2) in zip(whole, parts, strict=True):
        torch.testing.assert_close(m1, m2, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(v1, v2, rtol=1e-4, atol=1e-6)


def test_j_kl_needs_one_batch():
    with pytest.raises(DataFreeError, match="fewer than one batch"):
        batchnorm.j_kl(network(), generated(torch.rand(4, 3, 8, 8), "x"), batch=5)


def test_folding_keeps_the_function():
    net = network()
    x = torch.rand(3, 3, 11, 9)
    z = net[0](x)
    torch.testing.assert_close(batchnorm.fold(net[1], net[2])(z), net[2](net[1](z)), rtol=1e-4, atol=1e-5)
    hidden = torch.relu(net[2](net[1](z)))
    torch.testing.assert_close(batchnorm.fold(net[4], net[5])(hidden), net[5](net[4](hidden)), rtol=1e-4, atol=1e-5)


def test_recalibration_finds_the_statistics_of_the_images():
    net, images = network(), generated(torch.rand(32, 3, 12, 12), "x")
    kept = [m.momentum for _, m in batchnorm.layers(net)]
    before = batchnorm.j_kl(net, images)
    batchnorm.recalibrate(net, images, batch=32)
    assert batchnorm.j_kl(net, images) < min(1e-3, before)
    assert [m.momentum for _, m in batchnorm.layers(net)] == kept and not net.training


@settings(max_examples=20)
@given(st.integers(1, 4))
def test_mean_divergence_is_the_plain_mean_over_layers(n):
    pairs = [(torch.randn(c + 1), torch.rand(c + 1) + 0.1) for c in range(n)]
    stored = [(torch.randn(c + 1), torch.rand(c + 1) + 0.1) for c in range(n)]
    expected = sum(batchnorm.bns_divergence(*m, *r).mean().item() for m, r in zip(pairs, stored)) / n
    assert batchnorm.mean_divergence(pairs, stored).item() == pytest.approx(expected, rel=1e-5)


def test_image_moments_add_up_to_what_measure_finds():
    net, images = network(), generated(torch.rand(23, 3, 13, 17), "x")
    before = state_hash(net)
    moments, whole = batchnorm.image_moments(net, images, batch=7), batchnorm.measure(net, images)
    assert state_hash(net) == before and not any(m._forward_pre_hooks for m in net.modules())
    for (first, second), (mu, var) in zip(moments, whole):
        assert first.shape == second.shape == (23, len(mu))
        torch.testing.assert_close(first.mean(0), mu, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(second.mean(0) - first.mean(0).square(), var, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 4, 6, 24])
@pytest.mark.parametrize("options", [{}, {"reverse": True}])
def test_groups_have_the_divergence_of_their_images(size, options):
    net, images = network(), generated(torch.rand(24, 3, 13, 17), "x")
    reference = batchnorm.stored(net)
    found = batchnorm.group_divergences(batchnorm.image_moments(net, images), reference, size, **options)
    expected = [
        batchnorm.mean_divergence(batchnorm.measure(net, images[slice(i, i + size)]), reference, **options)
        for i in range(0, 24, size)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-3)
    if not options:
        assert found.mean().item() == pytest.approx(batchnorm.j_kl(net, images, size), rel=1e-3)


def test_groups_are_drawn_without_replacement_and_repeat_with_their_seed():
    moments = [(torch.arange(10.0)[:, None], torch.arange(10.0)[:, None] ** 2 + 1)]
    reference = [(torch.zeros(1), torch.ones(1))]
    singles = batchnorm.group_divergences(moments, reference, 1, torch.Generator().manual_seed(0), eps=0.0)
    torch.testing.assert_close(singles.sort().values, 0.5 * torch.arange(10.0) ** 2)
    draw = [batchnorm.group_divergences(moments, reference, 3, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert len(draw[0]) == 3 and torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("size", [0, 11, -1])
def test_groups_must_fit(size):
    moments = [(torch.zeros(10, 1), torch.ones(10, 1))]
    with pytest.raises(DataFreeError, match=f"groups of {size} cannot be drawn from 10 images; give a size from 1"):
        batchnorm.group_divergences(moments, [(torch.zeros(1), torch.ones(1))], size)


def test_aligned_statistics_give_the_output_its_old_moments():
    norm = nn.BatchNorm2d(3).eval()
    norm.running_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
    norm.running_var.copy_(torch.tensor([1.0, 2.0, 0.5]))
    z = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    wanted = norm(z)
    before = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
    changed = 0.4 * z + 3.0
    batchnorm.align(norm, changed, before)
    torch.testing.assert_close(norm(changed), wanted, atol=1e-3, rtol=1e-3)


def test_without_change_aligned_statistics_stay():
    norm = nn.BatchNorm2d(3).eval()
    z = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 2
    norm.running_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
    batchnorm.align(norm, z, (z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)))
    torch.testing.assert_close(norm.running_mean, torch.tensor([1.0, 0.0, -1.0]))
    torch.testing.assert_close(norm.running_var, torch.ones(3), rtol=1e-4, atol=1e-4)


def test_realigned_statistics_undo_a_change_of_scale_layer_after_layer():
    net, pool = load_network("resnet20"), generated(torch.rand(16, 3, 32, 32), "noise")
    found = batchnorm.realign(copy.deepcopy(net), net, pool)
    torch.testing.assert_close(found(pool.floats()), net(pool.floats()), rtol=1e-3, atol=1e-3)
    halved = copy.deepcopy(net)
    halved.layer2[0].conv1.weight.data.mul_(0.5)
    lost = (halved(pool.floats()) - net(pool.floats())).norm()
    repaired = batchnorm.realign(halved, net, pool)
    assert (repaired(pool.floats()) - net(pool.floats())).norm() < 0.01 * lost


def test_a_channel_that_died_diverges_from_nothing():
    """Where nothing varied and nothing varies, the divergence is zero, and it stays finite where something does."""
    zero = torch.zeros(3)
    mu_hat, var_hat = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    for reverse in (False, True):
        found = batchnorm.bns_divergence(mu_hat, var_hat, zero, zero, reverse=reverse)
        assert found[0] == 0 and (found[1:] > 0).all() and found.isfinite().all()
