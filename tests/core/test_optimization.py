"""optimization: the loop against a solved problem, its schedule, and when it calls back."""

import pytest
import torch
from conftest import seeded
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datafree import DataFreeError
from datafree.core.optimization import FitConfig, fit, rate_factor


@pytest.mark.parametrize("optimizer, rate", [("sgd", 0.2), ("adam", 0.1)])
def test_the_loop_solves_least_squares(optimizer, rate):
    a = torch.randn(20, 3, generator=seeded(), dtype=torch.float64)
    b = torch.randn(20, generator=seeded(1), dtype=torch.float64)
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    config = FitConfig(steps=400, rate=rate, optimizer=optimizer)
    history = fit([x], lambda: (a @ x - b).square().mean(), config, progress=False)
    assert len(history) == 400
    assert torch.allclose(x.detach(), torch.linalg.lstsq(a, b).solution, atol=1e-4)


def test_the_loop_decays_matrices_only():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    config = FitConfig(steps=5, rate=0.1, decay=0.5, momentum=0.0)
    fit([matrix, vector], lambda: 0.0 * (matrix.sum() + vector.sum()), config, progress=False)
    assert (matrix < 1).all() and torch.equal(vector.detach(), torch.ones(2))


def test_the_loop_stops_at_nan_with_a_sentence():
    x = nn.Parameter(torch.tensor(-1.0))
    config = FitConfig(steps=5, rate=0.1)
    with pytest.raises(DataFreeError, match="my fit diverged at step 0.*smaller rate"):
        fit([x], lambda: x.log(), config, what="my fit", progress=False)


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(steps, warmup):
    rates = [rate_factor(i, steps, warmup) for i in range(steps)]
    assert all(0 <= r <= 1 + 1e-12 for r in rates)
    top = max(range(steps), key=rates.__getitem__)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert all(a >= b - 1e-12 for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert rate_factor(steps, steps, warmup) <= 1e-9 or warmup * steps > steps - 1


def test_the_rate_at_known_places():
    assert rate_factor(0, 100, 0.1) == pytest.approx(0.1)
    assert rate_factor(9, 100, 0.1) == pytest.approx(1.0)
    assert rate_factor(55, 100, 0.1) == pytest.approx(0.5)
    assert rate_factor(0, 100, 0.0) == 1.0
    assert rate_factor(0, 2, 0.15) == 1.0  # warm-up shorter than a step
    assert [rate_factor(i, 10, 0.2, "constant") for i in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_loop_steps_by_its_schedule(schedule):
    """With a loss of slope one, plain SGD moves by the rate of each step."""
    x, places = nn.Parameter(torch.zeros((), dtype=torch.float64)), []
    config = FitConfig(steps=8, rate=0.5, momentum=0.0, warmup=0.25, schedule=schedule)
    fit([x], lambda: -x, config, before=lambda _: places.append(x.item()), progress=False)
    moves = [b - a for a, b in zip(places, [*places[1:], x.item()])]
    assert moves == pytest.approx([0.5 * rate_factor(i, 8, 0.25, schedule) for i in range(8)])


def test_the_loop_calls_before_each_step_and_may_be_moved_from_there():
    x, seen = nn.Parameter(torch.tensor(5.0)), []

    def before(done):
        seen.append((done, x.item()))
        x.data.clamp_(max=1.0)

    history = fit([x], lambda: x.square(), FitConfig(steps=3, rate=1e-9, momentum=0.0), before=before, progress=False)
    assert [done for done, _ in seen] == [0, 1, 2] and history == pytest.approx([1.0, 1.0, 1.0])
