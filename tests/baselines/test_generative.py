"""generative: the terms of Deep Inversion, the game of adversarial distillation, and what neither may change."""

import pytest
import torch
from conftest import Tiny, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.baselines import adversarial_distillation, deep_inversion
from datafree.core import batchnorm, quantized
from datafree.core.image_optimization import total_variation, unnormalize
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.networks.blocks import Normalize, normalization
from datafree.networks.weights import state_hash


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def inversion(**changes):
    return deep_inversion.InversionConfig(**({"steps": 30, "batch": 8, "rate": 0.1} | changes))


def game(**changes):
    return adversarial_distillation.AdversarialConfig(**({"steps": 4, "batch": 8, "latent": 4, "width": 8} | changes))


def student_of(teacher):
    torch.manual_seed(1)
    return with_statistics(Tiny(), side=8, seed=1)


def test_statistics_distance_is_zero_only_where_all_agree(teacher):
    stored = batchnorm.stored(teacher)
    assert deep_inversion.statistics_distance(stored, stored) == 0
    moved = [(mean + 3, var + 4) for mean, var in stored]
    expected = len(stored[0][0]) ** 0.5 * (3 + 4)
    assert deep_inversion.statistics_distance(moved, stored).item() == pytest.approx(expected, rel=1e-5)


def test_total_variation_of_a_ramp_counts_its_neighbours():
    assert total_variation(torch.ones(2, 3, 5, 5)) == 0
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)  # right: 3 x 3 ones, below: none, each diagonal: 2 x 3 ones
    assert total_variation(ramp).item() == pytest.approx(3 + 0 + 2 * 6**0.5)


def test_unnormalised_noise_has_the_moments_of_the_normalisation(teacher):
    x = unnormalize(noise(500, 3, 8, 8), teacher)
    mean, std = normalization(teacher)
    torch.testing.assert_close(x.mean((0, 2, 3)), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), std, atol=0.01, rtol=0)
    with pytest.raises(DataFreeError, match="no datafree.networks.blocks.Normalize"):
        normalization(nn.Conv2d(3, 3, 1))


def test_inversion_comes_nearer_to_statistics_and_classes(teacher):
    before = state_hash(teacher)
    images, history = deep_inversion.invert(teacher, inversion(statistics=100.0), 12, (3, 8, 8))
    assert images.pixels.shape == (12, 3, 8, 8) and len(history) == 2 * 30  # two batches of eight
    assert images.pixels.min() >= 0 and images.pixels.max() <= 1
    assert history[29] < 0.5 * history[0] and state_hash(teacher) == before
    again, _ = deep_inversion.invert(teacher, inversion(statistics=100.0), 12, (3, 8, 8))
    assert torch.equal(images.pixels, again.pixels) and torch.equal(images.labels, again.labels)
    other, _ = deep_inversion.invert(teacher, inversion(statistics=100.0, seed=1), 12, (3, 8, 8))
    assert not torch.equal(images.pixels, other.pixels)


def test_gradients_of_inversion_reach_every_image(teacher):
    reference, x = batchnorm.stored(teacher), noise(4, 3, 8, 8).requires_grad_()
    with batchnorm.capture(teacher) as seen:
        teacher(x)
        (gradient,) = torch.autograd.grad(deep_inversion.statistics_distance(seen.moments, reference), x)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_class_term_alone_makes_images_of_their_class(teacher):
    config = inversion(statistics=0.0, variation=0.0, size=0.0, steps=60)
    images, history = deep_inversion.invert(teacher, config, 8, (3, 8, 8))
    assert history[-1] < history[0]


def test_student_learns_on_inverted_images_and_an_extra_loss_is_added(teacher):
    images, _ = deep_inversion.invert(teacher, inversion(), 16, (3, 8, 8))
    config = FitConfig(steps=60, rate=0.01, optimizer="adam", momentum=0.9)
    student = student_of(teacher)
    plain = deep_inversion.distill_inverted(student, teacher, images, config, batch=16)
    assert plain[-1] < 0.8 * plain[0]
    more = deep_inversion.distill_inverted(
        student_of(teacher), teacher, images, config, batch=16, extra=lambda: torch.tensor(5.0)
    )
    assert more[0] == pytest.approx(plain[0] + 5, rel=1e-5)


def test_a_quantised_student_learns_on_inverted_images(teacher):
    images, _ = deep_inversion.invert(teacher, inversion(), 16, (3, 8, 8))
    student = quantized.prepare(teacher, 3, 8)
    with torch.no_grad(), quantized.observing(student):
        student(images.floats())
    history = deep_inversion.distill_inverted(
        student, teacher, images, FitConfig(steps=40, rate=1e-2, optimizer="adam"), batch=16
    )
    assert sum(history[-5:]) < sum(history[:5])


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
        x = maker(noise(64, 5))
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
    with pytest.raises(DataFreeError, match="has no BatchNorm"):
        deep_inversion.invert(nn.Sequential(Normalize(), nn.Conv2d(3, 2, 8), nn.Flatten()), inversion(), 4, (3, 8, 8))
    broken = student_of(teacher)
    broken.linear.weight.data.fill_(float("nan"))
    with pytest.raises(DataFreeError, match="generator's loss is NaN"):
        adversarial_distillation.distill_adversarially(broken, teacher, game(), (3, 8, 8))
    images = generated(torch.rand(8, 3, 8, 8), "x")
    with pytest.raises(DataFreeError, match="NaN or infinite"):
        deep_inversion.distill_inverted(broken, teacher, images, FitConfig(steps=1), batch=4)
    damaged = student_of(teacher)
    damaged.conv.weight.data.fill_(float("inf"))
    with pytest.raises(DataFreeError, match="Deep Inversion diverged"):
        deep_inversion.invert(damaged, inversion(), 4, (3, 8, 8))
