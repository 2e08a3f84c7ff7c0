"""The Knowledge Within, section 4.2: the feature loss, mixing, and what distillation may not change."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import seeded

from datafree import DataFreeError
from datafree.config import validate
from datafree.core import quantized
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network, state_hash
from datafree.papers.knowledge_within import calibration, distillation


@pytest.fixture(scope="module")
def net():
    return load_network("resnet20")


@pytest.fixture(scope="module")
def images():
    return load_images("cifar10-stub", "train").per_class(3)


def student_of(net, images, bits=(4, 4)):
    student = quantized.prepare(net, *bits)
    return calibration.calibrate(student, images, calibration.KnowledgeWithin(steps=1, batch=32))


def quick(**changes):
    usual = {"steps": 2, "batch": 8, "rate": 1e-3, "precision": "float32", "batchnorm": "frozen"}
    return distillation.DistillConfig(**(usual | changes))


def test_feature_distance_sums_an_image_and_averages_over_images_and_layers():
    small, large = torch.full((2, 3), 0.5), torch.full((2, 8), 4.0)
    small[1] = 0.0  # the second image agrees there
    zeros = [torch.zeros(2, 3), torch.zeros(2, 8)]
    got = distillation.feature_distance([small, large], zeros)
    assert got.item() == pytest.approx((3 * 0.125 / 2 + 8 * 3.5) / 2)
    mean = distillation.feature_distance([small, large], zeros, "mean")
    assert mean.item() == pytest.approx((0.125 / 2 + 3.5) / 2)


def test_feature_distance_wants_as_many_features_of_both():
    with pytest.raises(ValueError):
        distillation.feature_distance([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])


def test_mixing_blends_two_images_of_the_batch():
    images = torch.eye(6).view(6, 1, 1, 6).expand(6, 1, 2, 6).contiguous()
    mixed = distillation.mix(images, seeded())
    assert mixed.shape == images.shape
    assert torch.allclose(mixed.sum(3), torch.ones(6, 1, 2))
    assert ((mixed > 0).sum(3) <= 2).all() and ((mixed > 0).sum(3) == 2).any()


def test_mixing_is_repeatable():
    images = torch.rand(5, 3, 4, 4, generator=seeded())
    assert torch.equal(distillation.mix(images, seeded(3)), distillation.mix(images, seeded(3)))


def test_distillation_lowers_the_loss_and_leaves_the_teacher_alone(net, images):
    student, before = student_of(net, images, (2, 4)), state_hash(net)
    history = distillation.distill(student, net, images, quick(steps=25, batch=32, optimizer="adam"), progress=False)
    assert sum(history[-5:]) < 0.7 * sum(history[:5])
    assert state_hash(net) == before
    assert not any(module._forward_hooks for module in [*net.modules(), *student.modules()])


def test_ranges_and_running_statistics_stay_frozen(net, images):
    student = student_of(net, images)
    kept = {n: b.clone() for n, b in student.named_buffers()}
    distillation.distill(student, net, images, quick(), progress=False)
    assert all(torch.equal(b, kept[n]) for n, b in student.named_buffers())
    assert not student.training


def test_running_batchnorm_moves_its_statistics_and_nothing_stays_in_training_mode(net, images):
    student = student_of(net, images)
    before = student.bn1.running_mean.clone()
    distillation.distill(student, net, images, quick(batchnorm="running"), progress=False)
    assert not torch.equal(student.bn1.running_mean, before)
    assert not any(module.training for module in student.modules())


def test_the_float_student_has_nothing_to_learn(net, images):
    student = copy.deepcopy(net)
    history = distillation.distill(student, net, images, quick(mixing=False), progress=False)
    assert max(history) < 1e-5


def test_same_seed_same_losses_other_seed_other_losses(net, images):
    runs = [
        distillation.distill(student_of(net, images), net, images, quick(seed=s), progress=False) for s in (0, 0, 1)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    assert runs[0] != pytest.approx(runs[2], rel=1e-4)


def test_cross_entropy_learns_from_labels(net, images):
    student = student_of(net, images)
    config = quick(objective="cross_entropy", mixing=False, features=0.0, augment=False)
    work = distillation.Distillation(student, net, images, config)
    x, y = work.draw()
    assert torch.allclose(work.loss(x, y), F.cross_entropy(student(x), y), rtol=1e-4)


def test_cross_entropy_needs_labels_and_unmixed_images(net, images):
    unlabelled = generated(images.floats(), "made")
    with pytest.raises(DataFreeError, match="no labels"):
        distillation.distill(net, net, unlabelled, quick(objective="cross_entropy", mixing=False))
    with pytest.raises(DataFreeError, match="mixing=False"):
        distillation.distill(net, net, images, quick(objective="cross_entropy"))


def test_features_of_zero_weight_are_not_looked_at(net, images):
    assert distillation.Distillation(student_of(net, images), net, images, quick(features=0.0)).stages == ()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rate": float("nan")}, {"batch": 1}, {"objective": "mse"}, {"step": 3}])
def test_wrong_settings_are_refused(bad):
    with pytest.raises(DataFreeError):
        validate(distillation.DistillConfig, bad)


def test_a_step_is_watched_before_it_is_made(net, images):
    student, seen = student_of(net, images), []
    before = student.conv1.inner.weight.detach().clone()
    distillation.distill(
        student, net, images, quick(), progress=False,
        watch=lambda done: seen.append((done, torch.equal(student.conv1.inner.weight, before))),
    )  # fmt: skip
    assert seen == [(0, True), (1, False)]
