"""A small network, what each of its convolutions may keep, and a few images."""

import pytest
import torch
from conftest import SmallNet, with_statistics

from datafree.data.images import generated
from datafree.papers.frandi import factorization


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


@pytest.fixture
def factors(net):
    return factorization.Factorizer(net, (3, 8, 8))


@pytest.fixture
def images():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")
