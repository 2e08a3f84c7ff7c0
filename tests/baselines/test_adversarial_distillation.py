"""adversarial_distillation: the game of generator and student, and what it may not change."""

import pytest
import torch
from conftest import Tiny, seeded, with_statistics

from datafree import DataFreeError
from datafree.baselines import adversarial_distillation
from datafree.networks.blocks import normalization
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def game(**changes):
    return adversarial_distillation.AdversarialConfig(**({"steps": 4, "batch": 8, "latent": 4, "width": 8} | changes))


def student_of(teacher):
    torch.manual_seed(1)
    return with_statistics(Tiny(), side=8, seed=1)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_game_trains_student_and_generator_and_leaves_the_teacher(teacher, alpha):
    before, student = state_hash(teacher), student_of(teacher)
    weights, required = student.conv.weight.clone(), [p.requires_grad for p in teacher.parameters()]
    result = adversarial_distillation.distill_adversarially(student, teacher, game(alpha=alpha), (3, 8, 8))
    assert len(result.history) == len(result.gained) == 4 and not torch.equal(student.conv.weight, weights)
    assert state_hash(teacher) == before and [p.requires_grad for p in teacher.parameters()] == required
    again = adversarial_distillation.distill_adversarially(student_of(teacher), teacher, game(alpha=alpha), (3, 8, 8))
    assert again.history == result.history


def test_generator_finds_images_on_which_the_student_is_worse(teacher):
    """With a student that hardly learns, only the generator moves: the distance it finds must grow."""
    config = game(steps=60, rate=1e-9, alpha=0.0, batch=32, generator_rate=0.01)
    gained = adversarial_distillation.distill_adversarially(student_of(teacher), teacher, config, (3, 8, 8)).gained
    assert sum(gained[-5:]) > 1.2 * sum(gained[:5])


def test_student_alone_reduces_the_distance(teacher):
    """With a generator that hardly learns, only the student moves: the distance must shrink."""
    config = game(steps=80, rate=0.02, alpha=0.0, batch=32, generator_rate=1e-9)
    history = adversarial_distillation.distill_adversarially(student_of(teacher), teacher, config, (3, 8, 8)).history
    assert sum(history[-5:]) < 0.5 * sum(history[:5])


def test_generator_takes_turns(teacher):
    result = adversarial_distillation.distill_adversarially(
        student_of(teacher), teacher, game(every=3, steps=7), (3, 8, 8)
    )
    assert len(result.history) == 7 and len(result.gained) == 3


def test_parameters_without_gradient_stay(teacher):
    student = student_of(teacher)
    student.linear.requires_grad_(False)
    before = student.linear.weight.clone(), student.linear.bias.clone()
    adversarial_distillation.distill_adversarially(student, teacher, game(), (3, 8, 8))
    assert torch.equal(student.linear.weight, before[0]) and torch.equal(student.linear.bias, before[1])


def test_generated_images_have_the_moments_of_the_input(teacher):
    maker = adversarial_distillation.Generator(teacher, (3, 8, 12), 5, 8)
    with torch.no_grad():
        x = maker(torch.randn(64, 5, generator=seeded()))
    assert x.shape == (64, 3, 8, 12)
    mean, std = normalization(teacher)
    torch.testing.assert_close(x.mean((0, 2, 3)), mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), std, atol=1e-2, rtol=0)


def test_plausible_outputs_are_sure_and_various():
    stats = [(torch.zeros(2), torch.ones(2))]
    sure = 50 * torch.eye(4)
    values = [adversarial_distillation.plausibility(z, stats, stats) for z in (sure, 0 * sure, sure[:1].repeat(4, 1))]
    assert values[0] < values[1] and values[0] < values[2]
    torch.testing.assert_close(values[0], -torch.tensor(4.0).log(), atol=1e-4, rtol=0)


def test_what_cannot_work_is_refused(teacher):
    with pytest.raises(DataFreeError, match="multiples of 4, not 10 x 8"):
        adversarial_distillation.Generator(teacher, (3, 10, 8), 4, 8)
    broken = student_of(teacher)
    broken.linear.weight.data.fill_(float("nan"))
    with pytest.raises(DataFreeError, match="generator's loss is NaN"):
        adversarial_distillation.distill_adversarially(broken, teacher, game(), (3, 8, 8))
