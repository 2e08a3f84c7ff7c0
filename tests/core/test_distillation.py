"""distillation: the distance of outputs against torch's own, the batches, and what training may not change."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import Tiny, seeded, with_statistics

from datafree import DataFreeError
from datafree.core import distillation
from datafree.core.optimization import FitConfig
from datafree.data.images import generated
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


@pytest.fixture
def student(teacher):
    changed = copy.deepcopy(teacher)
    changed.conv.weight.data += 0.3 * torch.randn(changed.conv.weight.shape, generator=seeded(1))
    return changed


@pytest.fixture
def images():
    return generated(torch.rand(12, 3, 8, 8, generator=seeded(3)), "noise", torch.arange(12) % 10)


def plan(**changes):
    return FitConfig(**({"steps": 3, "rate": 1e-2, "optimizer": "adam"} | changes))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_output_divergence_is_that_of_torch_distributions(temperature):
    a, b = (torch.randn(7, 5, generator=seeded(k)) for k in (0, 1))
    p, q = (torch.distributions.Categorical(logits=z / temperature) for z in (b, a))
    wanted = temperature**2 * torch.distributions.kl_divergence(p, q).mean()
    assert torch.allclose(distillation.output_divergence(a, b, temperature), wanted, rtol=1e-5)


def test_output_divergence_vanishes_for_equal_outputs_and_ignores_a_shift():
    z = torch.randn(6, 10, generator=seeded())
    assert distillation.output_divergence(z, z + 3.0).abs() < 1e-6


def test_gradient_of_the_output_divergence_is_the_difference_of_probabilities():
    a, b = (torch.randn(4, 3, generator=seeded(k)) for k in (0, 1))
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation.output_divergence(a, b), a)
    assert torch.allclose(gradient, (a.softmax(1) - b.softmax(1)).detach() / len(a), atol=1e-6)


class TestBatches:
    @pytest.mark.parametrize("replacement", [True, False])
    def test_the_seed_alone_decides(self, images, replacement):
        def drawn(seed):
            draw = distillation.Batches(images, 5, seed=seed, replacement=replacement, augment=True)
            return [draw()[0] for _ in range(3)]

        a, b, c = drawn(0), drawn(0), drawn(1)
        assert all(torch.equal(x, y) for x, y in zip(a, b)) and not any(torch.equal(x, y) for x, y in zip(a, c))
        assert not torch.equal(a[0], a[1])

    def test_without_replacement_images_differ_and_a_small_set_is_taken_whole(self, images):
        draw = distillation.Batches(images, 11, replacement=False)
        assert all(len(set(draw.index().tolist())) == 11 for _ in range(5))
        x, labels = distillation.Batches(images, 12, replacement=False)()
        assert torch.equal(x, images.floats()) and torch.equal(labels, images.labels)

    def test_with_replacement_images_repeat(self, images):
        draw = distillation.Batches(images, 100)
        assert len(draw()[0]) == 100 and len(set(draw.index().tolist())) <= 12

    def test_labels_belong_to_their_images(self, images):
        x, labels = distillation.Batches(images, 7)()
        for image, label in zip(x, labels):
            place = (images.pixels - image).abs().flatten(1).sum(1).argmin()
            assert images.labels[place] == label


def train(student, teacher, images, **options):
    def loss(x, _labels):
        return distillation.output_divergence(student(x), teacher(x))

    draw = distillation.Batches(images, 6)
    return distillation.train_student(student, loss, plan(), draw=draw, teacher=teacher, progress=False, **options)


def test_training_brings_the_student_nearer_and_leaves_the_teacher(teacher, student, images):
    before, flags = state_hash(teacher), [p.requires_grad for p in teacher.parameters()]
    loss = lambda x, _: distillation.output_divergence(student(x), teacher(x))  # noqa: E731
    history = distillation.train_student(
        student, loss, plan(steps=60), draw=distillation.Batches(images, 12), teacher=teacher, progress=False
    )
    assert history[-1] < 0.5 * history[0]
    assert state_hash(teacher) == before and [p.requires_grad for p in teacher.parameters()] == flags
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("mode, moves", [("frozen", False), ("running", True), ("batch", False)])
def test_batchnorm_adapts_only_if_asked_and_modes_come_back(teacher, student, images, mode, moves):
    before, momentum = student.bn.running_mean.clone(), student.bn.momentum
    student.linear.train()
    train(student, teacher, images, batchnorm=mode)
    assert torch.equal(student.bn.running_mean, before) != moves
    assert student.linear.training and not student.bn.training and not teacher.training
    assert student.bn.momentum == momentum


def test_batch_statistics_normalise_in_training_and_are_forgotten(student, images):
    x = images.floats()
    outside = student(x)
    with distillation.batchnorm_mode(student, "batch"):
        assert not torch.allclose(student(x), outside, atol=1e-3)
    assert torch.equal(student(x), outside)
    with distillation.batchnorm_mode(student, "frozen"):
        assert torch.equal(student(x), outside)


def test_parameters_without_gradient_and_those_not_named_stay(teacher, student, images):
    student.linear.requires_grad_(False)
    kept = {n: p.clone() for n, p in student.named_parameters()}
    train(student, teacher, images, parameters=[student.bn.weight])
    moved = {n for n, p in student.named_parameters() if not torch.equal(p, kept[n])}
    assert moved == {"bn.weight"}
    train(student, teacher, images)
    moved = {n for n, p in student.named_parameters() if not torch.equal(p, kept[n])}
    assert moved == {"conv.weight", "bn.weight", "bn.bias"}


def test_an_extra_loss_is_added_and_every_step_is_watched(teacher, student, images):
    seen = []
    twin = copy.deepcopy(student)
    more = train(student, teacher, images, extra=lambda: torch.tensor(5.0), watch=seen.append)
    plain = train(twin, teacher, images)
    assert seen == [0, 1, 2] and more == pytest.approx([v + 5 for v in plain], rel=1e-4)


def test_a_loss_may_draw_by_itself(student, images):
    x, labels = images.floats(), images.labels
    loss = lambda: F.cross_entropy(student(x), labels)  # noqa: E731
    history = distillation.train_student(student, loss, plan(steps=20), progress=False)
    assert history[-1] < history[0]


def test_divergence_is_told_with_the_name_of_what_diverged(teacher, student, images):
    student.linear.weight.data.fill_(float("nan"))
    with pytest.raises(DataFreeError, match="my lesson diverged at step 0"):
        train(student, teacher, images, what="my lesson")
    assert not student.training
