"""Errors of many ranges at once, against rounding all values for each of them."""

import numpy as np
import pytest
import torch

from datafree.core import levels, range_search
from datafree.core.range_search import SortedValues

rng = np.random.default_rng(0)
VALUES = {
    "normal": rng.standard_normal(5000), "rectified": np.maximum(rng.standard_normal(5000), 0), "constant": np.full(50, 2.0),
    "heavy tails": rng.standard_normal(5000) ** 5, "few": np.array([0.5]), "levels": np.repeat(np.arange(-4.0, 5.0), 30),
}  # fmt: skip


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
    expected = [
        (levels.round_to_levels(x, *torch.tensor(pair), bits) - x).square().sum().item() for pair in zip(low, high)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_no_width_sends_everything_to_one_value():
    values = SortedValues(np.array([1.0, 2.0, 3.0]))
    assert values.errors(np.zeros(1), np.zeros(1), 4)[0] == pytest.approx(14)
