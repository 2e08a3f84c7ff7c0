"""Damage measured by what arrives: never worse than without looking, equal where there is nothing to see."""

import itertools

import pytest
import torch

from datafree.beyond import damage
from datafree.core import quantizer
from datafree.papers.frandi import factorization

DOUBLE = torch.float64


def covariance(n, seed=0, strength=1.0):
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.eye(n, dtype=DOUBLE) + strength * torch.randn(n, n, generator=draw, dtype=DOUBLE)
    return mixed @ mixed.T / n


def weights(o=8, n=12, seed=1):
    return torch.randn(o, n, generator=torch.Generator().manual_seed(seed))


def test_the_error_is_that_of_samples():
    x = torch.randn(2000, 5, dtype=DOUBLE) @ torch.randn(5, 5, dtype=DOUBLE) + 3
    change = torch.randn(4, 5, dtype=DOUBLE)
    wanted = (x @ change.T).var(0, correction=0)
    torch.testing.assert_close(damage.output_error(change, torch.cov(x.T, correction=0)), wanted)


def test_inputs_that_know_nothing_of_each_other_are_rounded_to_the_nearest():
    weight, cov = weights(), torch.diag(torch.rand(12, dtype=DOUBLE) + 0.1)
    grid = quantizer.affine_grid(*quantizer.weight_range(weight), 3)
    torch.testing.assert_close(damage.round_in_turn(weight, cov, grid), quantizer.round_to_grid(weight, grid))


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_rounding_is_never_worse_than_the_nearest_and_mostly_better(bits):
    weight, cov = weights(), covariance(12, strength=3.0)
    found = damage.round_least(weight, cov, bits)
    nearest = quantizer.quantize_weight(weight, bits)
    ours, theirs = (damage.output_error(w - weight, cov) for w in (found.weight, nearest))
    assert (ours <= theirs * (1 + 1e-6)).all() and ours.sum() < 0.8 * theirs.sum()


def test_rounded_weights_lie_on_the_levels_of_their_limits():
    found = damage.round_least(weights(), covariance(12), 2)
    again = quantizer.quantize_weight(found.weight, 2, limits=found.limits)
    torch.testing.assert_close(again, found.weight)
    assert all(len(row.unique()) <= 4 for row in found.weight)


def test_no_choice_of_levels_is_better_by_much():
    """Of two inputs all choices can be tried: rounding in turn finds one that is no worse than the nearest, and often the best."""
    best = []
    for seed in range(30):
        weight, cov = weights(1, 2, seed), covariance(2, seed, 2.0)
        grid = quantizer.affine_grid(*quantizer.weight_range(weight), 3)
        levels = quantizer.from_integers(
            torch.arange(8.0), quantizer.Grid(*(v.view(()) if torch.is_tensor(v) else v for v in grid))
        )
        every = torch.tensor(list(itertools.product(levels.tolist(), repeat=2)))
        least = damage.output_error(every - weight, cov).min()
        found = damage.output_error(damage.round_in_turn(weight, cov, grid) - weight, cov).item()
        assert found >= least - 1e-6
        best.append(found <= least * 1.001 + 1e-9)
    assert sum(best) >= 15


def kernel(seed=0, o=6, i=4, side=3):
    return torch.randn(o, i, side, side, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def matrix(weight):
    return weight.permute(1, 2, 0, 3).reshape(weight.shape[1] * weight.shape[2], -1)


def test_at_full_rank_the_kernel_comes_back():
    weight = kernel()
    whole = factorization.compact_weight(damage.decompose_least(weight, covariance(12)), 12, weight.shape)
    torch.testing.assert_close(whole, weight)


def test_for_white_inputs_it_is_the_plain_decomposition():
    weight = kernel()
    ours, plain = damage.decompose_least(weight, torch.eye(12, dtype=DOUBLE)), factorization.decompose(weight)
    for rank in (1, 5):
        torch.testing.assert_close(*(factorization.compact_weight(p, rank, weight.shape) for p in (ours, plain)))


def test_no_other_matrix_of_the_rank_loses_less():
    weight, cov, rank = kernel(), covariance(12, strength=3.0), 4
    parts = damage.decompose_least(weight, cov)

    def lost(w):
        d = matrix(w - weight)
        return (d * (cov @ d)).sum()

    ours = lost(factorization.compact_weight(parts, rank, weight.shape))
    torch.testing.assert_close(ours, parts.values[rank:].square().sum())  # Eckart and Young
    assert ours < 0.9 * lost(factorization.compact_weight(factorization.decompose(weight), rank, weight.shape))
    for seed in range(10):
        other = factorization.decompose(weight + 0.1 * kernel(seed + 1))
        assert lost(factorization.compact_weight(other, rank, weight.shape)) >= ours


def test_columns_of_patches_are_averaged():
    x = torch.randn(400, 2 * 3 * 3, dtype=DOUBLE)
    whole = torch.cov(x.T, correction=0)
    columns = [torch.cov(x.view(400, 2, 3, 3)[..., b].flatten(1).T, correction=0) for b in range(3)]
    torch.testing.assert_close(damage.column_cov(whole, torch.Size((5, 2, 3, 3))), sum(columns) / 3)


def test_inputs_that_do_not_vary_are_no_obstacle():
    cov = damage.regularized(torch.zeros(12, 12), 0.1)
    torch.testing.assert_close(
        damage.round_least(weights(), cov, 4, (1.0,)).weight, quantizer.quantize_weight(weights(), 4)
    )
