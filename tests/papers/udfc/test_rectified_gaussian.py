"""Rectified Gaussians: closed forms against SciPy, sampling, and what must hold for any mean and correlation."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from datafree.errors import DataFreeError
from datafree.papers.udfc import rectified_gaussian

POINTS = [(0.3, -0.7, 0.5), (-1.2, 0.4, -0.8), (1.5, 2.0, 0.95), (0.0, 0.0, 0.3), (-2.0, -1.0, -0.2), (0.0, 1.0, 0.999)]


@pytest.mark.parametrize("h, k, rho", POINTS)
def test_bivariate_cdf_is_scipys(h, k, rho):
    wanted = multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([h, k])
    assert rectified_gaussian.bivariate_cdf(h, k, rho) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("h, k, rho", POINTS)
def test_products_are_those_of_samples(h, k, rho):
    count, std = 400_000, np.array([0.7, 1.6])
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, count))
    b = std[0] * (h + u), std[1] * (k + rho * u + np.sqrt(1 - rho**2) * v)
    samples = np.maximum(b[0], 0) * np.maximum(b[1], 0)
    error = 5 * samples.std() / np.sqrt(count) + 1e-9
    assert abs(rectified_gaussian.product(std[0] * h, std[0], std[1] * k, std[1], rho) - samples.mean()) < error


@given(st.floats(-4, 4), st.floats(0.01, 3))
def test_full_correlation_gives_the_second_moment(mean, std):
    _, second = rectified_gaussian.first_moments(mean, std)
    assert rectified_gaussian.product(mean, std, mean, std, 1.0) == pytest.approx(second, rel=1e-4, abs=1e-6)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 2), st.floats(0.1, 2))
def test_independent_ones_multiply(a, b, s, t):
    wanted = rectified_gaussian.first_moments(a, s)[0] * rectified_gaussian.first_moments(b, t)[0]
    assert rectified_gaussian.product(a, s, b, t, 0.0) == pytest.approx(wanted, abs=1e-9)


def test_without_means_it_is_the_arc_cosine_kernel():
    rho = np.linspace(-0.99, 0.99, 9)
    angle = np.arccos(rho)
    wanted = (np.sin(angle) + (np.pi - angle) * rho) / (2 * np.pi)
    np.testing.assert_allclose(rectified_gaussian.product(0, 1, 0, 1, rho), wanted, atol=1e-9)


def test_far_above_zero_nothing_is_rectified_and_far_below_nothing_is_left():
    mean, std = torch.tensor([30.0, 25.0]), torch.tensor([1.0, 2.0])
    rho = torch.tensor([[1.0, -0.4], [-0.4, 1.0]])
    first, cov = rectified_gaussian.covariance(mean, std, rho)
    torch.testing.assert_close(first, mean.double())
    torch.testing.assert_close(cov, (rho * torch.outer(std, std)).double())
    first, cov = rectified_gaussian.covariance(-mean, std, rho)
    assert first.abs().max() < 1e-12 and cov.abs().max() < 1e-12


def test_the_covariance_is_symmetric_and_positive():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(12, 30, generator=generator, dtype=torch.float64)
    a = a / a.norm(dim=1, keepdim=True)
    mean, std = torch.randn(12, generator=generator), 0.3 + torch.rand(12, generator=generator)
    _, cov = rectified_gaussian.covariance(mean, std, a @ a.T)
    torch.testing.assert_close(cov, cov.T)
    assert torch.linalg.eigvalsh(cov).min() > -1e-9


def test_a_channel_without_spread_is_a_constant():
    first, second = rectified_gaussian.first_moments([2.0, -2.0, 0.0], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(first, [2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(second, [4, 0, 0], atol=1e-9)


def test_wrong_inputs_are_named():
    with pytest.raises(DataFreeError, match="must not be below zero"):
        rectified_gaussian.first_moments([0.0], [-1.0])
    with pytest.raises(DataFreeError, match="square matrix"):
        rectified_gaussian.covariance(torch.zeros(3), torch.ones(3), torch.eye(2))
