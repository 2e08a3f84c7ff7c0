"""deep_inversion: its terms, images that lower them, and a student that learns from these."""

import pytest
import torch
from conftest import Tiny, seeded, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.baselines import deep_inversion
from datafree.core import batchnorm, quantized
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def inversion(**changes):
    return deep_inversion.InversionConfig(**({"steps": 30, "batch": 8, "rate": 0.1} | changes))


def student_of(teacher):
    torch.manual_seed(1)
    return with_statistics(Tiny(), side=8, seed=1)


def test_statistics_distance_is_zero_only_where_all_agree(teacher):
    stored = batchnorm.stored(teacher)
    assert deep_inversion.statistics_distance(stored, stored) == 0
    moved = [(mean + 3, var + 4) for mean, var in stored]
    expected = len(stored[0][0]) ** 0.5 * (3 + 4)
    assert deep_inversion.statistics_distance(moved, stored).item() == pytest.approx(expected, rel=1e-5)


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
    reference, x = batchnorm.stored(teacher), torch.randn(4, 3, 8, 8, generator=seeded()).requires_grad_()
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


def test_images_have_a_class_for_each_output(teacher):
    images, _ = deep_inversion.invert(teacher, inversion(steps=1, batch=2), 2, (3, 8, 8))
    assert images.classes == [str(k) for k in range(10)] and images.labels.max() < 10


def test_what_cannot_work_is_refused(teacher):
    with pytest.raises(DataFreeError, match="has no BatchNorm"):
        deep_inversion.invert(nn.Sequential(Normalize(), nn.Conv2d(3, 2, 8), nn.Flatten()), inversion(), 4, (3, 8, 8))
    broken = student_of(teacher)
    broken.linear.weight.data.fill_(float("nan"))
    images = generated(torch.rand(8, 3, 8, 8), "x")
    with pytest.raises(DataFreeError, match="NaN or infinite"):
        deep_inversion.distill_inverted(broken, teacher, images, FitConfig(steps=1), batch=4)
    damaged = student_of(teacher)
    damaged.conv.weight.data.fill_(float("inf"))
    with pytest.raises(DataFreeError, match="Deep Inversion diverged"):
        deep_inversion.invert(damaged, inversion(), 4, (3, 8, 8))
