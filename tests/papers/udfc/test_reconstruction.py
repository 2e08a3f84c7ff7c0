"""UDFC: the closed form, what must be exact, and whole networks."""

import pytest
import torch
from conftest import TwoConvolutions
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree import UDFC
from datafree.core import batchnorm
from datafree.core.graph import trace
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.zoo import build_network
from datafree.papers.udfc import compression, reconstruction

DOUBLE = torch.float64


def problem(seed=0, d=20, kept=6, lost=3):
    """Random channels that are left, and others."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(d, kept + lost, generator=generator, dtype=DOUBLE)
    c = torch.randn(kept + lost, generator=generator, dtype=DOUBLE)
    return reconstruction.Folded(a[:, :kept], c[:kept]), reconstruction.Folded(a[:, kept:], c[kept:])


def plant(net, j, mix):
    """Make channel j of conv1, BatchNorm included, the combination `mix` of the others."""
    rows, constants = reconstruction.rows_and_constants(net, trace(net), "conv1")
    scale = (net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()).double()[j]
    net.conv1.weight.data[j] = (mix @ rows / scale).view_as(net.conv1.weight[j]).float()
    net.bn1.running_mean[j] = 0.0
    net.bn1.bias.data[j] = (mix @ constants).float()
    return net


def images(count=16, size=10, seed=5):
    return generated(torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)), "noise")


# The closed form -------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(1e-4, 2))
@settings(max_examples=30, deadline=None)
def test_it_solves_the_stacked_least_squares(seed, alpha1, alpha2):
    left, lost = problem(seed)
    stacked = torch.cat([left.a, alpha1**0.5 * left.c[None], alpha2**0.5 * torch.eye(6, dtype=DOUBLE)])
    wanted = torch.cat([lost.a, alpha1**0.5 * lost.c[None], torch.zeros(6, 3, dtype=DOUBLE)])
    reference = torch.linalg.lstsq(stacked, wanted).solution
    torch.testing.assert_close(reconstruction.closed_form(left, lost, alpha1, alpha2), reference, rtol=1e-5, atol=1e-5)


def test_it_is_the_limit_of_gradient_descent():
    left, lost = problem()
    s = torch.zeros(6, dtype=DOUBLE, requires_grad=True)
    hessian = 2 * (left.a.T @ left.a + 0.01 * torch.outer(left.c, left.c) + 0.008 * torch.eye(6, dtype=DOUBLE))
    rate = 1 / torch.linalg.eigvalsh(hessian).max()
    for _ in range(3000):
        (slope,) = torch.autograd.grad(reconstruction.loss(s, left, lost.a[:, 0], lost.c[0]), s)
        s = (s - rate * slope).detach().requires_grad_()
    torch.testing.assert_close(reconstruction.closed_form(left, lost)[:, 0], s.detach(), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0.01, 3))
@settings(max_examples=20, deadline=None)
def test_no_step_away_from_it_lowers_the_loss(seed, length):
    left, lost = problem(seed)
    best = reconstruction.closed_form(left, lost)[:, 0]
    step = torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE) * length
    at = [reconstruction.loss(s, left, lost.a[:, 0], lost.c[0]) for s in (best, best + step)]
    assert at[0] <= at[1]


@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(1e-4, 2))
@settings(max_examples=20, deadline=None)
def test_the_nonnegative_minimiser_has_the_gradient_of_one(seed, alpha1, alpha2):
    left, lost = problem(seed)
    found = reconstruction.closed_form_nonnegative(left, lost, alpha1, alpha2)
    assert (found >= 0).all()
    for s, a, c in zip(found.T, lost.a.T, lost.c):
        s = s.clone().requires_grad_()
        (slope,) = torch.autograd.grad(reconstruction.loss(s, left, a, c, alpha1, alpha2), s)
        # where s > 0 the slope is zero, where s = 0 it points upwards
        assert (slope[s > 0].abs() < 1e-5).all()
        assert (slope > -1e-5).all()


def test_a_nonnegative_mixture_is_found_by_both():
    left, _ = problem()
    mix = torch.tensor([[0.5], [0.0], [0.25], [0.0], [1.0], [0.0]], dtype=DOUBLE)
    lost = reconstruction.Folded(left.a @ mix, left.c @ mix)
    for solver in compression.SOLVERS.values():
        torch.testing.assert_close(solver(left, lost, alpha2=1e-12), mix, rtol=1e-5, atol=1e-5)


def test_dependent_channels_need_alpha2():
    left, lost = problem(d=3)
    with pytest.raises(DataFreeError, match="alpha2 is 0.0; give alpha2 above zero"):
        reconstruction.closed_form(left, lost, 0.0, 0.0)
    assert reconstruction.closed_form(left, lost).isfinite().all()


def test_an_undamaged_channel_stands_for_itself():
    keep, damaged = torch.tensor([0, 2]), torch.tensor([False, True, False])
    solved = torch.full((2, 3), 7.0, dtype=DOUBLE)
    assert reconstruction.unified(keep, solved, damaged).tolist() == [[1, 7, 0], [0, 7, 1]]


def test_without_damage_the_closed_form_is_the_identity():
    left, _ = problem()
    torch.testing.assert_close(reconstruction.closed_form(left, left, 0.01, 1e-12), torch.eye(6, dtype=DOUBLE))
    net = TwoConvolutions()
    for repair in ("none", "closed_form", "merging", "gaussian", "bias"):
        same, _ = compression.compress(net, UDFC(prune_ratio=0.0, repair=repair))
        torch.testing.assert_close(same(images().floats()), net(images().floats()), rtol=1e-4, atol=1e-5)


def test_reconstruction_adds_what_channels_take_over():
    weight = torch.randn(4, 3, 2, 2)
    s = torch.tensor([[1.0, 0.5, 0.0], [0.0, -2.0, 1.0]])
    rebuilt = reconstruction.reconstruct(weight, s)
    torch.testing.assert_close(rebuilt[:, 0], weight[:, 0] + 0.5 * weight[:, 1])
    torch.testing.assert_close(rebuilt[:, 1], weight[:, 2] - 2 * weight[:, 1])
    assert rebuilt.dtype == weight.dtype


def test_a_planted_dependence_is_folded_without_error():
    mix = torch.tensor([0.5, 0.0, 0.25, 0.0, 1.0, 0.0], dtype=DOUBLE)
    net = plant(TwoConvolutions(positive=True), 3, mix)
    x = images().floats()
    assert (net.bn1(net.conv1(x)) > 0).all(), "the case is one without rectification"
    work = compression.Compression(net, UDFC(prune_ratio=0.17, alpha2=1e-9))
    work.keep["conv1"] = torch.tensor([0, 1, 2, 4, 5])
    for layer in work.graph.layers:
        work.arrive(layer.name)
    assert work.net.conv2.weight.shape[1] == 5
    torch.testing.assert_close(work.net(x), net(x), rtol=1e-3, atol=1e-3)
    silent = compression.Compression(net, UDFC(prune_ratio=0.17, repair="none"))
    silent.keep["conv1"] = torch.tensor([0, 1, 2, 4, 5])
    for layer in silent.graph.layers:
        silent.arrive(layer.name)
    assert (silent.net(x) - net(x)).norm() > 100 * (work.net(x) - net(x)).norm()


def test_folding_gives_what_the_network_computes():
    net = build_network("mobilenet_v2_small").eval()
    for layer in (m for _, m in batchnorm.layers(net)):
        layer.weight.data.uniform_(-1, 1)
        layer.bias.data.normal_()
        layer.running_mean.normal_()
    wiring = trace(net)
    pair = next(p for p in wiring.pairs() if p.middle and wiring.feeding(p.first).kind == "norm")
    a, c = reconstruction.folded(net, wiring, pair)
    body = net.get_submodule(pair.first.rpartition(".")[0])
    x = torch.randn(2, wiring.layer(pair.first).inputs, 3, 3)
    linear = body[4](body[3](body[1](body[0](x))))  # expand, BatchNorm, depthwise, BatchNorm without relu
    patch = torch.einsum("nit,ito->no", x.flatten(2), a.view(x.shape[1], 9, -1).float())
    torch.testing.assert_close(linear[:, :, 1, 1], patch + c.float(), rtol=1e-3, atol=1e-4)


# Baselines -------------------------------------------------------------------------------------------------------


# Whole networks --------------------------------------------------------------------------------------------------
