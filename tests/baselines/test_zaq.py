"""zaq: relations of channels, and the game in which they count."""

import pytest
import torch
from conftest import Tiny, seeded, with_statistics

from datafree.baselines import zaq
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def student_of(seed=1):
    torch.manual_seed(seed)
    return with_statistics(Tiny(), side=8, seed=seed)


def config(**changes):
    return zaq.ZAQConfig(**(dict(steps=4, batch=16, latent=4, width=8, rate=0.01) | changes))


def test_relations_are_cosines_of_channels():
    maps = torch.randn(3, 5, 4, 4, generator=seeded())
    maps[:, 1] = 2 * maps[:, 0]
    maps[:, 2] = -maps[:, 0]
    maps[:, 4] = 0
    found = zaq.channel_relations(maps)
    assert torch.allclose(found, found.transpose(1, 2)) and found.abs().max() <= 1 + 1e-5
    assert torch.allclose(found[:, 0, 1], torch.ones(3)) and torch.allclose(found[:, 0, 2], -torch.ones(3))
    assert found[:, 4].abs().max() == 0
    scale = torch.rand(5, generator=seeded(1)).view(1, 5, 1, 1) + 0.5
    assert torch.allclose(zaq.channel_relations(scale * maps), found, atol=1e-5)


def test_the_distance_is_zero_for_equal_networks_only():
    logits, maps = torch.randn(2, 3, generator=seeded()), torch.randn(2, 4, 3, 3, generator=seeded(1))
    assert zaq.difference(logits, logits, [maps], [maps]) == 0
    assert zaq.difference(logits + 2, logits) == pytest.approx(2, abs=1e-5)
    assert zaq.difference(logits, logits, [maps.flip(1)], [maps], inside=1.0) > 0.05


def test_training_moves_the_student_and_leaves_the_teacher_and_repeats(teacher):
    before, student = state_hash(teacher), student_of()
    weights = student.conv.weight.clone()
    found = zaq.train(student, teacher, ["conv"], config(), (3, 8, 8))
    assert len(found.history) == len(found.gained) == 4
    assert state_hash(teacher) == before and not torch.equal(student.conv.weight, weights)
    assert zaq.train(student_of(), teacher, ["conv"], config(), (3, 8, 8)).history == found.history


def test_generator_and_student_pull_apart(teacher):
    """Where only one of the two learns, the distance goes its way."""
    alone = config(steps=60, rate=1e-9, generator_rate=0.01, batch=32, active=0.0)
    gained = zaq.train(student_of(), teacher, ["conv"], alone, (3, 8, 8)).gained
    assert sum(gained[-5:]) > 1.1 * sum(gained[:5])
    alone = config(steps=80, rate=0.02, generator_rate=1e-9, batch=32)
    history = zaq.train(student_of(), teacher, ["conv"], alone, (3, 8, 8)).history
    assert sum(history[-5:]) < 0.8 * sum(history[:5])
