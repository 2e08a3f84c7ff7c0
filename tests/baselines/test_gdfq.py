"""gdfq: a generator that learns to make images of a class, and a student that learns from them."""

import pytest
import torch
from conftest import Tiny, with_statistics

from datafree.baselines import gdfq
from datafree.core.batchnorm import Moments
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def student_of(seed=1):
    torch.manual_seed(seed)
    return with_statistics(Tiny(), side=8, seed=seed)


def config(**changes):
    usual = dict(steps=4, start=2, batch=16, latent=4, width=8, rate=0.01, seed=3)
    return gdfq.GDFQConfig(**(usual | changes))


def test_losses_are_least_where_all_agrees():
    labels, sure = torch.tensor([0, 2]), torch.tensor([[30.0, 0, 0], [0, 0, 30.0]])
    stored = [Moments(torch.zeros(4), torch.ones(4))]
    assert gdfq.generator_loss(sure, labels, stored, stored) < 1e-6
    moved = [Moments(torch.ones(4), torch.ones(4))]
    assert gdfq.generator_loss(sure, labels, moved, stored, beta=0.1) == pytest.approx(0.1, abs=1e-5)
    assert gdfq.generator_loss(sure, 2 - labels, stored, stored) == pytest.approx(30, abs=1e-4)
    assert gdfq.student_loss(sure, sure, labels) < 1e-6
    assert gdfq.student_loss(-sure, sure, labels, gamma=1) > gdfq.student_loss(-sure, sure, labels, gamma=0) > 1


def test_training_moves_the_student_and_leaves_the_teacher_and_repeats(teacher):
    before, student = state_hash(teacher), student_of()
    weights, statistics = student.conv.weight.clone(), student.bn.running_mean.clone()
    found = gdfq.train(student, teacher, config(), (3, 8, 8))
    assert len(found.history) == 4 and len(found.gained) == 2 + 4  # the generator alone, then turns
    assert state_hash(teacher) == before and not torch.equal(student.conv.weight, weights)
    assert torch.equal(student.bn.running_mean, statistics)
    assert gdfq.train(student_of(), teacher, config(), (3, 8, 8)).history == found.history


def test_the_generator_learns_to_make_the_class_that_is_asked_for(teacher):
    teacher.linear.weight.data *= 10  # outputs that can tell classes apart
    asked = config(start=100, steps=1, generator_rate=0.01, beta=0.01, batch=32)
    lost = gdfq.train(student_of(), teacher, asked, (3, 8, 8)).gained
    assert sum(lost[-5:]) < 0.8 * sum(lost[:5])


def test_the_student_learns_from_the_images(teacher):
    asked = config(start=0, steps=60, rate=0.02, generator_rate=1e-9, batch=32, gamma=20.0)
    history = gdfq.train(student_of(), teacher, asked, (3, 8, 8)).history
    assert sum(history[-5:]) < 0.9 * sum(history[:5])
