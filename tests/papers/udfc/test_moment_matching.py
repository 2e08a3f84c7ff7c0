"""Matching of moments: least squares with an intercept, channels removed by OBS, statistics that move."""

import itertools

import pytest
import torch
from torch import nn

from datafree.core import batchnorm
from datafree.core.graph import trace
from datafree.data.images import generated
from datafree.networks.weights import load_network
from datafree.papers.udfc import moment_matching

DOUBLE = torch.float64


def samples(count=400, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator, dtype=DOUBLE)
    return torch.randn(count, channels, generator=generator, dtype=DOUBLE) @ mixing + 1.0


def test_matching_is_least_squares_with_an_intercept():
    x = samples()
    keep = torch.tensor([0, 2, 3])
    found = moment_matching.of_samples(x[:, keep], x)
    s, t = moment_matching.match(found, torch.eye(6, dtype=DOUBLE)[keep], ridge=0.0)
    design = torch.cat([x[:, keep], torch.ones(len(x), 1, dtype=DOUBLE)], 1)
    wanted = torch.linalg.lstsq(design, x).solution
    torch.testing.assert_close(torch.cat([s, t[None]]), wanted)


def test_a_strong_ridge_leaves_the_network_as_it_is():
    x = samples()
    prior = torch.eye(6, dtype=DOUBLE)[:3]
    s, t = moment_matching.match(moment_matching.of_samples(x[:, :3], x), prior, ridge=1e9)
    torch.testing.assert_close(s, prior, atol=1e-6, rtol=0)
    torch.testing.assert_close(t[:3], torch.zeros(3, dtype=DOUBLE), atol=1e-5, rtol=0)
    torch.testing.assert_close(t[3:], x[:, 3:].mean(0), atol=1e-5, rtol=0)


def test_dead_channels_do_no_harm():
    x = samples()
    x[:, 1] = 0.0
    s, t = moment_matching.match(moment_matching.of_samples(x[:, :3], x), torch.eye(6, dtype=DOUBLE)[:3], ridge=0.01)
    assert s.isfinite().all() and t.isfinite().all()


def test_moments_of_a_part_are_the_part_of_the_moments():
    x, keep = samples(), torch.tensor([1, 4])
    whole, part = moment_matching.of_samples(x, x).of(keep), moment_matching.of_samples(x[:, keep], x)
    for name in ("mean_hat", "mean", "cov_hat", "cross", "cov"):
        torch.testing.assert_close(getattr(whole, name), getattr(part, name))


def test_variance_share_is_one_without_damage_and_falls_with_it():
    x, weight = samples(), torch.randn(5, 6, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    found = moment_matching.of_samples(x, x)
    torch.testing.assert_close(moment_matching.variance_share(weight, weight, found), torch.ones(5, dtype=DOUBLE))
    keep = torch.tensor([0, 1, 2])
    s, _ = moment_matching.match(found.of(keep), torch.eye(6, dtype=DOUBLE)[keep], 0.0)
    rebuilt = torch.einsum("pot,ko->pkt", weight, s)
    share = moment_matching.variance_share(weight, rebuilt, found.of(keep))
    assert (share <= 1 + 1e-9).all() and (share >= moment_matching.FACTOR_MIN).all() and share.min() < 0.99


def residual(x, weight, keep):
    """Squared error of the next layer when the channels `keep` are matched without ridge or intercept."""
    s = torch.linalg.lstsq(x[:, keep], x).solution
    return (x @ weight - x[:, keep] @ s @ weight).square().mean().item()


def test_the_first_channel_removed_is_the_best_one():
    x = samples() - 1.0
    weight = torch.randn(6, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    kept = moment_matching.kept_by_obs(x.T @ x / len(x), weight, 5, 1e-10).tolist()
    every = {k: residual(x, weight, list(k)) for k in itertools.combinations(range(6), 5)}
    assert tuple(kept) == min(every, key=every.get)


def test_giving_up_one_by_one_beats_most_choices():
    x = samples(channels=7, seed=3) - 1.0
    weight = torch.randn(7, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    kept = moment_matching.kept_by_obs(x.T @ x / len(x), weight, 4, 1e-10).tolist()
    every = sorted(residual(x, weight, list(k)) for k in itertools.combinations(range(7), 4))
    assert residual(x, weight, kept) <= every[len(every) // 5] * (1 + 1e-6)


def test_a_copied_channel_goes_first():
    x = samples() - 1.0
    x[:, 5] = x[:, 0]
    kept = moment_matching.kept_by_obs(x.T @ x, torch.ones(6, 2, dtype=DOUBLE), 5, 1e-6).tolist()
    assert (0 in kept) != (5 in kept)


def test_correlation_falls_with_distance():
    matrix = moment_matching.pixel_correlation((3, 3), 0.3)
    assert torch.equal(matrix, matrix.T) and (matrix.diagonal() == 1).all()
    assert matrix[0, 1] == matrix[0, 3] > matrix[0, 4] > matrix[0, 8] > 0
    assert torch.equal(moment_matching.pixel_correlation((3, 3), float("inf")), torch.eye(9, dtype=DOUBLE))
    assert torch.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("decay", [0.1, 0.5, 2.0])
def test_the_decay_is_read_from_stored_variances(decay):
    """BatchNorm statistics made by patches of a known decay give that decay back."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 40, 3), nn.BatchNorm2d(40)
    weight = conv.weight.detach().double().flatten(2)
    norm.running_var.copy_(
        7 * torch.einsum("oip,pq,oiq->o", weight, moment_matching.pixel_correlation((3, 3), decay), weight)
    )
    assert moment_matching.fit_decay(conv, norm) == decay
    assert moment_matching.fit_decay(nn.Conv2d(4, 40, 1), norm) == float("inf"), "one pixel has no neighbours"


def test_rectified_gaussians_are_those_of_white_noise():
    """A convolution on white noise with the statistics it really has: moments without images equal measured ones."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1))
    net[1].weight.data.copy_(torch.tensor([1.0, -0.7, 0.5, 1.2, 0.9]))
    net[1].bias.data.normal_()
    x = torch.randn(4000, 4, 4, 4)
    z = net[0](x)
    net[1].running_mean.copy_(z.mean((0, 2, 3)).detach())
    net[1].running_var.copy_(z.var((0, 2, 3)).detach())
    wiring = trace(net.eval())
    found = moment_matching.GaussianChain(net, wiring, wiring.pairs()[0]).moments()
    rows = net[2](net[1](z)).permute(0, 2, 3, 1).reshape(-1, 5).detach()
    measured = moment_matching.of_samples(rows, rows)
    torch.testing.assert_close(found.mean, measured.mean, rtol=0.02, atol=0.02)
    torch.testing.assert_close(found.cov, measured.cov, rtol=0.05, atol=0.02)


def test_damage_shows_in_the_chain():
    net = load_network("mobilenet_v2_small")
    wiring = trace(net)
    pair = next(p for p in wiring.pairs() if p.middle)
    chain = moment_matching.GaussianChain(net, wiring, pair)
    whole = chain.moments()
    assert whole.cov_hat is whole.cov
    net.get_submodule(pair.first).weight.data.mul_(1 + 1e-6)
    nearly = chain.moments()
    torch.testing.assert_close(nearly.cov, whole.cov, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(nearly.cross, whole.cov, rtol=1e-2, atol=1e-3)


def test_sampling_and_recording():
    x = torch.arange(2 * 3 * 32 * 32.0).view(2, 3, 32, 32)
    rows = moment_matching.sampled(x)
    assert rows.shape == (2 * moment_matching.GRID**2, 3) and rows[0].tolist() == x[0, :, 2, 2].tolist()
    assert moment_matching.sampled(x[..., :5, :5]).shape == (50, 3)
    flat = torch.rand(4, 7)
    assert moment_matching.sampled(flat) is flat


def test_one_pass_observes_inputs_and_norms():
    net, pool = load_network("resnet20"), generated(torch.rand(6, 3, 32, 32), "x")
    seen = moment_matching.observe(net, ["layer1.0.conv2", "linear"], pool, batch=4)
    assert seen.inputs["layer1.0.conv2"].shape == (6 * 64, 16) and seen.inputs["linear"].shape == (6, 64)
    wanted = dict(zip((name for name, _ in batchnorm.layers(net)), batchnorm.measure(net, pool)))
    for name, (mean, var) in wanted.items():
        torch.testing.assert_close(seen.norms[name][0], mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(seen.norms[name][1], var, rtol=1e-3, atol=1e-4)
    assert not any(m._forward_pre_hooks for m in net.modules())
