"""Observers: each against its definition, over one batch and over several."""

from functools import partial

import pytest
import torch
from conftest import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree.core import observers, quantizer, range_search
from datafree.errors import DataFreeError


def values(n=4000, seed=0):
    x = torch.randn(n, generator=seeded(seed))
    x[0] = 40.0  # an outlier
    return x


def error(x, ends, bits=4):
    return (quantizer.round_to_grid(x, quantizer.affine_grid(*ends, bits)) - x).square().mean()


def observed(observer, *batches):
    for x in batches:
        observer.observe(x)
    return observer.range()


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


def test_percentiles_leave_the_stated_share_outside():
    x = values(100_000)
    low, high = observers.percentile_range(x)
    outside = ((x < low) | (x > high)).float().mean().item()
    assert outside == pytest.approx(1 - observers.PERCENTILE, rel=0.1)


def test_percentiles_of_a_constant_are_the_constant():
    low, high = observers.percentile_range(torch.full((10,), 3.0))
    assert low == high == 3.0


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_range_is_never_worse_than_extremes(bits):
    x = values()
    assert error(x, observers.mse_range(x, bits), bits) <= error(x, observers.extremes(x), bits) + 1e-9


def test_mse_range_is_the_best_of_its_shrinks():
    x = values(3000, 1)
    best = error(x, observers.mse_range(x, 3), 3)
    all_errors = [error(x, (s * x.amin(), s * x.amax()), 3) for s in observers.SHRINKS]
    assert best <= min(all_errors) + 1e-9 and min(all_errors) < max(all_errors)


BATCHES = [values(2000, seed).view(40, 50) * (1 + seed) for seed in range(3)]
RULES = {
    "extremes": (observers.MinMaxObserver, observers.extremes),
    "moving": (observers.MovingAverageMinMaxObserver, observers.extremes),
    "chunks": (partial(observers.ChunkAverageObserver, chunk=8), lambda x: observers.chunk_extremes(x, 8)),
    "percentile": (observers.PercentileObserver, observers.percentile_range),
    "mse": (observers.MSEObserver, lambda x: observers.mse_range(x, 3)),
    "search": (partial(observers.ExactSearchObserver, n=10), lambda x: range_search.search_range(x, 3, 10)),
}
"""What makes an observer from a width, and the ends that it should find in a batch at three bits."""


@pytest.mark.parametrize("name", RULES)
def test_one_batch_gives_its_own_ends(name):
    make, rule = RULES[name]
    torch.testing.assert_close(observed(make(3), BATCHES[0]), rule(BATCHES[0]))


@pytest.mark.parametrize("name", ["chunks", "percentile", "mse", "search"])
def test_several_batches_give_the_mean_of_their_ends(name):
    make, rule = RULES[name]
    found = observed(make(3), *BATCHES)
    expected = torch.stack([torch.stack(rule(x)) for x in BATCHES]).mean(0)
    torch.testing.assert_close(torch.stack(found), expected)


def test_extremes_are_those_of_all_batches():
    whole = torch.cat(BATCHES)
    found = observed(observers.MinMaxObserver(), *BATCHES[::-1])
    assert found == (whole.min(), whole.max())


def test_a_moving_average_goes_its_share_of_the_way():
    observer = observers.MovingAverageMinMaxObserver(averaging_constant=0.25)
    low, high = observed(observer, torch.tensor([-1.0, 2.0]), torch.tensor([-5.0, 0.0]))
    assert (low.item(), high.item()) == (-2.0, 1.5)


def test_nothing_observed_is_no_range():
    with pytest.raises(DataFreeError, match="no image at all"):
        observers.MinMaxObserver().range()


def test_an_observer_keeps_no_gradient_and_measures_in_float():
    x = BATCHES[0].bfloat16().requires_grad_()
    for make in (observers.MinMaxObserver, observers.ChunkAverageObserver):
        for end in observed(make(), x):
            assert end.dtype == torch.float32 and not end.requires_grad
