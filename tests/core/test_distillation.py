"""distill: the losses against torch's own, the loop against a solved problem, taps, and what a student may not change."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from datafree import DataFreeError
from datafree.core import distillation, quantized
from datafree.core.hooks import stages, taps
from datafree.core.optimization import FitConfig, fit
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.networks.weights import load_network, state_hash
from datafree.networks.zoo import build_network
from datafree.papers.knowledge_within import calibration


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def net():
    return load_network("resnet20")


@pytest.fixture(scope="module")
def pool():
    return load_images("cifar10-stub", "train").per_class(3)


def student_of(net, pool, bits=(4, 4)):
    student = quantized.prepare(net, *bits)
    return calibration.calibrate(student, pool, calibration.KnowledgeWithin(steps=1, batch=32))


def quick(**changes):
    return distillation.DistillConfig(**({"steps": 2, "batch": 8, "rate": 1e-3, "precision": "float32"} | changes))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_output_divergence_is_that_of_torch_distributions(temperature):
    a, b = (torch.randn(7, 5, generator=generator(k)) for k in (0, 1))
    p, q = (torch.distributions.Categorical(logits=z / temperature) for z in (b, a))
    wanted = temperature**2 * torch.distributions.kl_divergence(p, q).mean()
    assert torch.allclose(distillation.output_divergence(a, b, temperature), wanted, rtol=1e-5)


def test_output_divergence_vanishes_for_equal_outputs_and_ignores_a_shift():
    z = torch.randn(6, 10, generator=generator())
    assert distillation.output_divergence(z, z + 3.0).abs() < 1e-6


def test_gradient_of_the_output_divergence_is_the_difference_of_probabilities():
    a, b = (torch.randn(4, 3, generator=generator(k)) for k in (0, 1))
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation.output_divergence(a, b), a)
    assert torch.allclose(gradient, (a.softmax(1) - b.softmax(1)).detach() / len(a), atol=1e-6)


def test_feature_distance_averages_over_values_then_taps():
    small, large = torch.full((2, 3), 0.5), torch.full((1, 8), 4.0)
    got = distillation.feature_distance([small, large], [torch.zeros(2, 3), torch.zeros(1, 8)])
    assert got.item() == pytest.approx((0.125 + 3.5) / 2)


def test_feature_distance_wants_as_many_features_as_taps():
    with pytest.raises(ValueError):
        distillation.feature_distance([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])


def test_mixing_blends_two_images_of_the_batch():
    images = torch.eye(6).view(6, 1, 1, 6).expand(6, 1, 2, 6).contiguous()
    mixed = distillation.mix(images, generator())
    assert mixed.shape == images.shape
    assert torch.allclose(mixed.sum(3), torch.ones(6, 1, 2))
    assert ((mixed > 0).sum(3) <= 2).all() and ((mixed > 0).sum(3) == 2).any()


def test_mixing_is_repeatable():
    images = torch.rand(5, 3, 4, 4, generator=generator())
    assert torch.equal(distillation.mix(images, generator(3)), distillation.mix(images, generator(3)))


def test_stages_are_the_ends_of_the_residual_stages(net):
    assert stages(net) == ("layer1.2", "layer2.2", "layer3.2")


@pytest.mark.parametrize("name", ["slim_vgg", "mobilenet_v2_small", "resnet44"])
def test_stages_fall_in_resolution(name):
    model = build_network(name)
    with taps(model, stages(model)) as seen, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    sides = [f.shape[-1] for f in seen]
    assert len(sides) >= 3 and sides == sorted(sides, reverse=True) and len(set(sides)) == len(sides)


def test_taps_give_the_outputs_of_their_modules_and_leave_no_hook(net):
    x = torch.rand(2, 3, 32, 32, generator=generator())
    with taps(net, ("linear", "layer1")) as seen, torch.no_grad():
        out = net.eval()(x)
    assert torch.equal(seen[0], out) and seen[1].shape == (2, 16, 32, 32)
    assert not net.linear._forward_hooks and not net.layer1._forward_hooks


def test_a_tap_that_does_not_exist_is_named(net):
    with pytest.raises(DataFreeError, match="no module 'layer9'.*layer1"), taps(net, ("layer9",)):
        pass


@pytest.mark.parametrize("optimizer, rate", [("sgd", 0.2), ("adam", 0.1)])
def test_the_loop_solves_least_squares(optimizer, rate):
    a = torch.randn(20, 3, generator=generator(), dtype=torch.float64)
    b = torch.randn(20, generator=generator(1), dtype=torch.float64)
    x = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    config = FitConfig(steps=400, rate=rate, optimizer=optimizer)
    history = fit([x], lambda: (a @ x - b).square().mean(), config, progress=False)
    assert len(history) == 400
    assert torch.allclose(x.detach(), torch.linalg.lstsq(a, b).solution, atol=1e-4)


def test_the_loop_decays_matrices_only():
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    config = FitConfig(steps=5, rate=0.1, decay=0.5, momentum=0.0)
    fit([matrix, vector], lambda: 0.0 * (matrix.sum() + vector.sum()), config, progress=False)
    assert (matrix < 1).all() and torch.equal(vector.detach(), torch.ones(2))


def test_the_loop_stops_at_nan_with_a_sentence():
    x = nn.Parameter(torch.tensor(-1.0))
    config = FitConfig(steps=5, rate=0.1)
    with pytest.raises(DataFreeError, match="my fit diverged at step 0.*smaller rate"):
        fit([x], lambda: x.log(), config, what="my fit", progress=False)


def test_distillation_lowers_the_loss_and_leaves_the_teacher_alone(net, pool):
    student, before = student_of(net, pool, (2, 4)), state_hash(net)
    history = distillation.distill(student, net, pool, quick(steps=25, batch=32, optimizer="adam"), progress=False)
    assert sum(history[-5:]) < 0.7 * sum(history[:5])
    assert state_hash(net) == before
    assert not any(module._forward_hooks for module in [*net.modules(), *student.modules()])


def test_ranges_and_running_statistics_stay_frozen(net, pool):
    student = student_of(net, pool)
    kept = {n: b.clone() for n, b in student.named_buffers()}
    distillation.distill(student, net, pool, quick(), progress=False)
    assert all(torch.equal(b, kept[n]) for n, b in student.named_buffers())
    assert not student.training


def test_running_batchnorm_moves_its_statistics_and_nothing_stays_in_training_mode(net, pool):
    student = student_of(net, pool)
    before = student.bn1.running_mean.clone()
    distillation.distill(student, net, pool, quick(batchnorm="running"), progress=False)
    assert not torch.equal(student.bn1.running_mean, before)
    assert not any(module.training for module in student.modules())


def test_the_float_student_has_nothing_to_learn(net, pool):
    import copy

    student = copy.deepcopy(net)
    history = distillation.distill(student, net, pool, quick(mixing=False), progress=False)
    assert max(history) < 1e-5


def test_same_seed_same_losses_other_seed_other_losses(net, pool):
    runs = [distillation.distill(student_of(net, pool), net, pool, quick(seed=s), progress=False) for s in (0, 0, 1)]
    assert runs[0] == pytest.approx(runs[1], rel=1e-4)
    assert runs[0] != pytest.approx(runs[2], rel=1e-4)


def test_cross_entropy_learns_from_labels(net, pool):
    student = student_of(net, pool)
    config = quick(objective="cross_entropy", mixing=False, features=0.0, augment=False)
    draw = distillation.Distiller(student, net, pool, config)
    loss = draw.draw_loss()
    draw.generator.manual_seed(config.seed)
    x, y = draw.batch()
    assert torch.allclose(loss, F.cross_entropy(student(x), y), rtol=1e-4)


def test_cross_entropy_needs_labels_and_unmixed_images(net, pool):
    unlabelled = generated(pool.floats(), "made")
    with pytest.raises(DataFreeError, match="no labels"):
        distillation.distill(net, net, unlabelled, quick(objective="cross_entropy", mixing=False))
    with pytest.raises(DataFreeError, match="mixing=False"):
        distillation.distill(net, net, pool, quick(objective="cross_entropy"))


def test_features_of_zero_weight_leave_no_tap(net, pool):
    assert distillation.Distiller(student_of(net, pool), net, pool, quick(features=0.0)).taps == ()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"rate": float("nan")}, {"batch": 1}, {"objective": "mse"}, {"step": 3}])
def test_wrong_settings_are_refused(bad):
    from datafree.config import validate

    with pytest.raises(DataFreeError):
        validate(distillation.DistillConfig, bad)
