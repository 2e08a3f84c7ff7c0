"""BatchNorm inside the convolution: the same outputs, moments and gradients, and a network that stays as it is."""

import pytest
import torch
from conftest import SmallNet, network_named, with_statistics
from torch import nn

from datafree.core import batchnorm, folding
from datafree.core.hooks import feature_hooks, output_hooks
from datafree.networks.blocks import BasicBlock, Normalize
from datafree.networks.weights import state_hash


def residual(act=nn.ReLU):
    torch.manual_seed(0)
    blocks = BasicBlock(8, 8, 1), BasicBlock(8, 16, 2)
    net = nn.Sequential(Normalize(), nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act(), *blocks,
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))  # fmt: skip
    return with_statistics(net, side=16)


def preactivated():
    torch.manual_seed(0)
    net = nn.Sequential(Normalize(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))  # fmt: skip
    return with_statistics(net, side=16)


def near_zero():
    net = residual()
    net[2].weight.data[:3] = torch.tensor([0.0, 1e-7, -1e-4])
    net[4].bn1.weight.data[2] = 0.0
    return net


def unscaled():
    net = residual()
    net[2].weight = net[2].bias = None
    return net


NETWORKS = {"residual": residual, "relu6": lambda: residual(nn.ReLU6), "preactivated": preactivated, "plain": SmallNet,
            "near zero": near_zero, "unscaled": unscaled}  # fmt: skip
FOLDED = {"residual": 5, "relu6": 5, "preactivated": 0, "plain": 4, "near zero": 5, "unscaled": 5}


def loss_and_gradient(net, x, plan):
    """J_KL and a loss of the outputs, the gradient of their sum, and the outputs."""
    reference = batchnorm.stored(net)
    with batchnorm.capture(net, *plan) as seen:
        y = net(x)
        divergence = batchnorm.mean_divergence(seen.moments, reference)
        (gradient,) = torch.autograd.grad(divergence + y.square().mean(), x)
    return divergence.detach(), gradient, y.detach()


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_synthesis_equals_the_plain_one(name):
    net = with_statistics(NETWORKS[name](), side=16) if name == "plain" else NETWORKS[name]()
    plan = folding.plan(net)
    assert len(plan.folds) == FOLDED[name]
    x = torch.rand(6, 3, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain, fast = loss_and_gradient(net, x, ([], [])), loss_and_gradient(net, x, plan)
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=0)
    assert (fast[1] - plain[1]).norm() < 5e-3 * plain[1].norm()  # a ReLU at zero may fall to either side
    torch.testing.assert_close(fast[2], plain[2], rtol=1e-4, atol=1e-4)


class Writing(nn.Module):
    """A residual block that writes over what BatchNorm gives, as torchvision's do."""

    def __init__(self, function):
        super().__init__()
        self.normalize, self.conv, self.bn = Normalize(), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.function, self.pool, self.linear = function, nn.AdaptiveAvgPool2d(1), nn.Linear(3, 5)

    def forward(self, x):
        x = self.normalize(x)
        return self.linear(torch.flatten(self.pool(self.function(self.bn(self.conv(x)), x)), 1))


def add_in_place(y, x):
    y += x
    return y


@pytest.mark.parametrize("function", [add_in_place, lambda y, x: nn.functional.relu(y, inplace=True) + x])
def test_networks_may_write_over_what_batchnorm_gives(function):
    torch.manual_seed(0)
    net = with_statistics(Writing(function), side=16)
    x = torch.rand(4, 3, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain, fast = loss_and_gradient(net, x, ([], [])), loss_and_gradient(net, x, folding.plan(net))
    for one, other in zip(plain, fast):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small", "slim_vgg", "densenet121"])
def test_known_networks_agree_in_the_loss(name):
    net, side = network_named(name), 64 if name == "densenet121" else 32
    x = torch.rand(4, 3, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    plan = folding.plan(net)
    plain, fast = loss_and_gradient(net, x, ([], [])), loss_and_gradient(net, x, plan)
    assert len(plan.folds) > 5
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=0)
    assert (fast[1] - plain[1]).norm() < 2e-2 * plain[1].norm()


@pytest.mark.parametrize("double", [False, True])
def test_gradients_agree_to_the_last_digits_away_from_kinks(double):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    net = with_statistics(net, side=12)
    net = net.double() if double else net
    x = torch.rand(6, 3, 12, 12).to(net[0].weight).requires_grad_()
    plain, fast = loss_and_gradient(net, x, ([], [])), loss_and_gradient(net, x, folding.plan(net))
    assert (fast[1] - plain[1]).norm() < 2e-5 * plain[1].norm()


def test_the_parts_of_batchnorm_give_batchnorm_and_spare_small_channels():
    norm = near_zero()[2]
    (a, b), (c, d) = batchnorm.halves(norm)
    z = torch.randn(4, 8, 5, 5)
    torch.testing.assert_close(c * (a * z + b) + d, norm(z), rtol=1e-4, atol=1e-5)
    near = norm.weight.abs() < batchnorm.NEAR_ZERO * norm.bias.abs()
    assert near[:3].all() and not near.all() and (a.flatten()[near] > 1e-3).all()
    torch.testing.assert_close(c.flatten()[~near], torch.ones(int((~near).sum())))


def test_a_folded_teacher_gives_the_same_and_is_put_back():
    net = residual().train()
    x, before, flags = torch.rand(4, 3, 16, 16), state_hash(net), [p.requires_grad for p in net.parameters()]
    wanted = residual()(x)
    with folding.folded(net):
        torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
        assert not any(p.requires_grad for p in net.parameters())
        with folding.folded(net):  # nothing is left to do
            torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-5)
    assert state_hash(net) == before and net.training and [p.requires_grad for p in net.parameters()] == flags
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_what_is_watched_is_left_alone():
    net = residual()
    assert [fold.conv for fold in folding.plan(net, ["1", "5.conv2"]).folds] == [
        net[4].conv1,
        net[4].conv2,
        net[5].conv1,
    ]
    x = torch.rand(2, 3, 16, 16)
    with feature_hooks(net, ["1", "4"]) as seen, torch.no_grad():
        net(x)
        before = list(seen)
        with folding.folded(net, ["1"]):
            net(x)
    torch.testing.assert_close(seen, before, rtol=1e-4, atol=1e-5)
    with output_hooks(net, ["1", "4.bn1", "4.relu2"], lambda *_: None):
        plan = folding.plan(net)
    assert net[1] not in [fold.conv for fold in plan.folds] and net[4].bn1 not in [fold.norm for fold in plan.folds]
    assert net[4].relu2 not in plan.after_sums and net[5].relu2 in plan.after_sums


def test_a_network_that_cannot_be_traced_is_computed_as_it_is():
    class Branching(SmallNet):
        def forward(self, x):
            return super().forward(x) if x.mean() > -1 else x

    assert folding.plan(Branching()) == ([], [])
