"""Neuron Merging: a scaled copy is found, and nothing unlike is merged."""

import pytest
import torch
from conftest import TwoConvolutions

from datafree.baselines import neuron_merging

DOUBLE = torch.float64


def test_neuron_merging_finds_a_scaled_copy():
    net = TwoConvolutions()
    net.conv1.weight.data[3] = 2.0 * net.conv1.weight.data[1]
    keep = torch.tensor([0, 1, 2, 4, 5])
    s = neuron_merging.neuron_merging(net.conv1.weight, net.bn1, keep, lam=1.0)
    assert s[:, 3].nonzero().flatten().tolist() == [1]
    factor = (net.bn1.weight / (net.bn1.running_var + net.bn1.eps).sqrt()).double()
    assert s[1, 3] == pytest.approx((2 * factor[1] / factor[3]).item())
    assert torch.equal(s[:, keep], torch.eye(5, dtype=DOUBLE))


def test_below_the_threshold_nothing_is_merged():
    net = TwoConvolutions()
    s = neuron_merging.neuron_merging(net.conv1.weight, net.bn1, torch.tensor([0, 1, 2]), threshold=0.999)
    assert (s[:, 3:] == 0).all()
