"""Rows of patches are what a layer multiplies, and the refit is least squares on them."""

import pytest
import torch
from torch import nn

from datafree.beyond import least_squares

DOUBLE = torch.float64
LAYERS = [
    nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0)), nn.Conv2d(4, 6, 3, dilation=2, groups=2),
    nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 5, 1), nn.Linear(4, 3),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_rows_times_weight_are_the_output(layer):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = x if isinstance(layer, nn.Linear) else x[:, :, None, None] * torch.randn(3, 4, 7, 8)
    y = layer(x) - layer.bias.view(1, -1, *[1] * (x.ndim - 2))
    # [samples, outputs], outputs by group
    got = torch.cat(list(least_squares.wanted(x, layer)), 1)
    want = y if y.ndim == 2 else y.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_a_grid_of_a_large_map_is_a_part_of_its_output():
    layer, x = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False), torch.randn(2, 2, 64, 64)
    got = least_squares.wanted(x, layer)[0]
    # 32 x 32 outputs, every fourth of them, from half a step on
    want = layer(x)[:, :, 2::4, 2::4].permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def rows(count=500, n=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, n, generator=draw, dtype=DOUBLE) @ torch.randn(n, n, generator=draw, dtype=DOUBLE) + 1


def test_without_damage_the_weight_stays():
    x, weight = rows(), torch.randn(3, 6, dtype=DOUBLE)
    for ridge in (1e-9, 0.1, 10.0):
        torch.testing.assert_close(least_squares.refit(x, x @ weight.T, weight, ridge)[0], weight, atol=1e-6, rtol=0)


def test_a_lost_input_that_the_others_know_costs_nothing():
    x, weight = rows(), torch.randn(3, 6, dtype=DOUBLE)
    x[:, 5] = x[:, 0] - 2 * x[:, 3] + 4
    solved, moments = least_squares.refit(x[:, :5], x @ weight.T, weight[:, :5], 1e-10)
    shift = moments.mean - solved @ moments.mean_hat
    torch.testing.assert_close(x[:, :5] @ solved.T + shift, x @ weight.T, atol=1e-5, rtol=0)


def test_nothing_near_it_is_better():
    x, weight, ridge = rows(), torch.randn(3, 6, dtype=DOUBLE), 0.3
    damaged, prior = x[:, :4] + 0.3 * torch.randn(500, 4, dtype=DOUBLE), weight[:, :4]
    solved, moments = least_squares.refit(damaged, x @ weight.T, prior, ridge)

    def cost(w):
        error = x @ weight.T - damaged @ w.T
        pull = ridge * moments.cov_hat.diagonal().mean() * (w - prior).square().sum()
        return error.var(0, correction=0).sum() + pull

    steps = 0.01 * torch.randn(20, 3, 4, dtype=DOUBLE)
    assert all(cost(solved + step) > cost(solved) for step in steps)
    assert cost(solved) < cost(prior)


def test_an_input_that_never_varies_changes_nothing():
    weight = torch.randn(3, 6, dtype=DOUBLE)
    assert torch.equal(
        least_squares.refit(torch.ones(9, 6, dtype=DOUBLE), torch.ones(9, 3, dtype=DOUBLE), weight, 0.1)[0], weight
    )
