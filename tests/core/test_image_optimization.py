"""image_optimization: images that minimise a loss, what the network sees of them, and the network that stays as it is."""

import pytest
import torch
from conftest import Tiny, seeded, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.core import batchnorm
from datafree.core.image_optimization import (
    ImageConfig,
    images_from_noise,
    optimize_images,
    total_variation,
    unnormalize,
)
from datafree.networks.blocks import normalization
from datafree.networks.weights import state_hash


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return with_statistics(Tiny(), side=8)


def test_total_variation_of_a_ramp_counts_its_neighbours():
    assert total_variation(torch.ones(2, 3, 5, 5)) == 0
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)  # right: 3 x 3 ones, below: none, each diagonal: 2 x 3 ones
    assert total_variation(ramp).item() == pytest.approx(3 + 0 + 2 * 6**0.5)


def test_unnormalised_noise_has_the_moments_of_the_normalisation(teacher):
    x = unnormalize(torch.randn(500, 3, 8, 8, generator=seeded()), teacher)
    mean, std = normalization(teacher)
    torch.testing.assert_close(x.mean((0, 2, 3)), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), std, atol=0.01, rtol=0)
    with pytest.raises(DataFreeError, match="no datafree.networks.blocks.Normalize"):
        normalization(nn.Conv2d(3, 3, 1))


def plan(**changes):
    return ImageConfig(**({"steps": 30, "rate": 0.05} | changes))


def divergence(net):
    reference = batchnorm.stored(net)
    return lambda x, outputs, moments: batchnorm.mean_divergence(moments, reference)


def test_images_change_in_place_until_their_statistics_agree(teacher):
    before = state_hash(teacher)
    images = torch.rand(8, 3, 8, 8, generator=seeded(), requires_grad=True)
    start = images.detach().clone()
    history = optimize_images(teacher, images, divergence(teacher), plan())
    assert history[-1] < 0.5 * history[0] and not torch.equal(images.detach(), start)
    assert state_hash(teacher) == before and all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_the_network_sees_the_view_and_the_loss_gets_what_it_saw(teacher):
    images, seen = torch.rand(2, 3, 8, 8, generator=seeded(), requires_grad=True), []

    def loss(x, outputs, moments):
        seen.append((x.detach(), outputs.detach(), moments[0][0].detach()))
        return outputs.square().sum()

    start = images.detach().clone()
    optimize_images(teacher, images, loss, plan(steps=1), view=lambda x: x.repeat(3, 1, 1, 1).flip(3))
    x, outputs, mean = seen[0]
    with torch.no_grad():
        expected = start.repeat(3, 1, 1, 1).flip(3)
        assert torch.equal(x, expected)
        torch.testing.assert_close(outputs, teacher(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            mean, teacher.conv(teacher.normalize(expected)).mean((0, 2, 3)), rtol=1e-4, atol=1e-5
        )


def test_what_is_done_before_a_step_holds_in_it(teacher):
    images, seen = (5 * torch.rand(2, 3, 8, 8, generator=seeded())).requires_grad_(), []

    def loss(x, outputs, moments):
        seen.append(x.detach().aminmax())
        return -outputs.sum()

    clip = lambda _: images.data.clamp_(0, 1)  # noqa: E731
    optimize_images(teacher, images, loss, plan(steps=4, rate=1.0), before=clip)
    assert len(seen) == 4 and all(low >= 0 and high <= 1 for low, high in seen)


def test_bf16_is_for_the_network_alone(teacher):
    images, kinds = torch.rand(2, 3, 8, 8, generator=seeded(), requires_grad=True), []

    def loss(x, outputs, moments):
        kinds.append((x.dtype, outputs.dtype, moments[0][0].dtype))
        return (x.flatten(1) @ x.flatten(1).T).sum()  # a product that autocast would round

    optimize_images(teacher, images, loss, plan(steps=1), bf16=True)
    assert kinds == [(torch.float32, torch.bfloat16, torch.float32)] and images.grad.dtype == torch.float32


def test_noise_becomes_images_of_the_networks_input(teacher):
    images, history = images_from_noise(teacher, divergence(teacher), 8, (3, 8, 8), plan(), 3, what="x")
    start, _ = images_from_noise(teacher, divergence(teacher), 8, (3, 8, 8), plan(steps=1, rate=1e-9), 3, what="x")
    torch.testing.assert_close(start, unnormalize(torch.randn(8, 3, 8, 8, generator=seeded(3)), teacher))
    assert history[-1] < 0.5 * history[0] and not images.requires_grad
    again, _ = images_from_noise(teacher, divergence(teacher), 8, (3, 8, 8), plan(), 3, what="x")
    assert torch.equal(images, again)


def test_divergence_is_told_with_its_name(teacher):
    loss = lambda x, outputs, moments: outputs.sum() * float("nan")  # noqa: E731
    with pytest.raises(DataFreeError, match="my images diverged at step 0"):
        images_from_noise(teacher, loss, 2, (3, 8, 8), plan(), 0, what="my images")
