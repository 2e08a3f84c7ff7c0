"""cost: the peak above what was held, whatever is given back before the end."""

import pytest
import torch

from datafree.core import cost
from datafree.core.cost import PROCESS, measured

SIZE = 200 * 2**20 // 4


@pytest.mark.skipif(not PROCESS.is_dir(), reason="memory is read from /proc, which this system has not")
def test_peak_counts_what_was_given_back_and_not_what_was_held():
    held = torch.ones(SIZE)
    with measured() as found:
        torch.ones(SIZE)
    assert 150 < found.peak_mb < 300 and found.seconds > 0 and found.cpu_seconds > 0
    with measured() as nothing:
        held.sum()
    assert nothing.peak_mb < 50


def test_systems_that_do_not_say_get_none(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "PROCESS", tmp_path / "none")
    with measured() as found:
        pass
    assert found.peak_mb is None and found.seconds >= 0


def test_cost_is_filled_when_the_work_fails():
    with pytest.raises(ValueError), measured() as found:
        raise ValueError
    assert found.seconds > 0
