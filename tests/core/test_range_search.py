"""Errors of many ranges at once against rounding all values for each, and the search of figure 4 against its double loop."""

import numpy as np
import pytest
import torch

from datafree.core import quantizer, range_search
from datafree.core.range_search import SortedValues
from datafree.errors import DataFreeError

rng = np.random.default_rng(0)
VALUES = {
    "normal": rng.standard_normal(5000), "rectified": np.maximum(rng.standard_normal(5000), 0), "constant": np.full(50, 2.0),
    "heavy tails": rng.standard_normal(5000) ** 5, "few": np.array([0.5]), "levels": np.repeat(np.arange(-4.0, 5.0), 30),
}  # fmt: skip


def squared_error(x, pair, bits):
    return (quantizer.fake_quantize(x, quantizer.affine_grid(*pair, bits, zero_on_grid=False)) - x).square().sum()


@pytest.mark.parametrize("name", VALUES)
def test_counts_are_those_of_numpy(name):
    values = SortedValues(VALUES[name])
    own = values.values.astype(np.float64)
    thresholds = np.concatenate([own, own + 1e-9, rng.uniform(own.min() - 1, own.max() + 1, 500), [-1e30, 1e30]])
    np.testing.assert_array_equal(values.below(thresholds), np.searchsorted(own, thresholds, side="left"))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("name", VALUES)
def test_errors_are_those_of_rounding_all_values(name, bits, monkeypatch):
    monkeypatch.setattr(range_search, "CHUNK", 3 * 2**bits)  # several chunks
    x = torch.tensor(VALUES[name], dtype=torch.float32).double()
    low, high = -np.linspace(0, 3, 7), np.linspace(0.1, 4, 7)
    found = SortedValues(x.numpy()).errors(low, high, bits)
    expected = [squared_error(x, torch.tensor(pair), bits).item() for pair in zip(low, high)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_no_width_sends_everything_to_one_value():
    values = SortedValues(np.array([1.0, 2.0, 3.0]))
    assert values.errors(np.zeros(1), np.zeros(1), 4)[0] == pytest.approx(14)


CASES = {
    "normal": lambda g: torch.randn(4000, generator=g), "rectified": lambda g: torch.randn(4000, generator=g).relu(),
    "negative": lambda g: -1 - torch.rand(500, generator=g), "positive": lambda g: 1 + torch.rand(500, generator=g),
    "tails": lambda g: torch.randn(4000, generator=g) ** 3, "one": lambda g: torch.tensor([0.7]),
}  # fmt: skip


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_search_finds_the_pair_of_the_double_loop(name, bits):
    x = CASES[name](torch.Generator().manual_seed(bits))
    fast, slow = range_search.search_range(x, bits, 12), range_search.search_range_by_loops(x, bits, 12)
    errors = [squared_error(x.double(), [e.double() for e in pair], bits) for pair in (fast, slow)]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-6, atol=1e-9)
    if name not in ("one", "positive", "negative"):  # there several pairs may round equally well
        torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-7)
    extremes = squared_error(x, (x.min().clamp_max(0), x.max().clamp_min(0)), bits)
    assert errors[0] <= extremes * 1.00001


def test_ends_stay_on_their_side_of_zero():
    g = torch.Generator().manual_seed(0)
    low, high = range_search.search_range(torch.rand(500, generator=g), 4)
    assert low == 0 and high > 0
    low, high = range_search.search_range(-torch.rand(500, generator=g), 4)
    assert low < 0 and high == 0
    assert range_search.search_range(torch.zeros(20), 4) == (0, 0)


@pytest.mark.parametrize("x", [torch.tensor([]), torch.tensor([1.0, float("nan")])])
def test_search_refuses_what_has_no_range(x):
    with pytest.raises(DataFreeError, match="NaN, infinite or none"):
        range_search.search_range(x, 4)
