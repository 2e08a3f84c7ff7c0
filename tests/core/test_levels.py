"""levels: layers that learn for levels, and what they become."""

import pytest
import torch
from conftest import Tiny, with_statistics
from torch import nn

from datafree import DataFreeError
from datafree.core import levels
from datafree.core.graph import fold_all, trace


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(7, 3)])
def test_a_learning_layer_computes_what_it_becomes(layer):
    shape = (5, layer.in_features) if isinstance(layer, nn.Linear) else (5, layer.in_channels, 6, 6)
    learning = levels.LearningLayer(layer, 4, 3)
    learning(noise(*shape))
    x = 2 * noise(*shape, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(learning(x), learning.finished()(x), atol=1e-5, rtol=1e-5)
    assert len(learning.finished().core.weight.unique()) <= 16


def test_gradients_pass_inside_the_range_only():
    x = torch.tensor([-2.0, -0.4, 0.3, 5.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(levels._ToLevels.apply(x, torch.tensor(-1.0), torch.tensor(1.0), 3).sum(), x)
    assert gradient.tolist() == [0, 1, 1, 0]


def test_weights_get_the_gradient_of_the_rounded_weight():
    layer = nn.Linear(3, 2, bias=False)
    learning = levels.LearningLayer(layer, 8, 16)
    x = noise(10, 3)
    learning(x).square().sum().backward()
    wanted = 2 * (x @ layer.weight.T).T @ x
    torch.testing.assert_close(learning.inner.weight.grad, wanted, rtol=0.05, atol=0.3)


def test_range_starts_at_the_first_batch_and_follows_only_with_gradients():
    learning, x = levels.LearningLayer(nn.Linear(3, 2), 4, 4), noise(10, 3)
    with pytest.raises(DataFreeError, match="before any step of training"), torch.no_grad():
        learning(x)
    learning(x)
    assert learning.low == x.min() and learning.high == x.max()
    with torch.no_grad():
        learning(3 * x)
    assert learning.high == x.max()
    learning(3 * x)
    torch.testing.assert_close(learning.high, x.max() * (1 + 2 * levels.FOLLOW))


def test_a_network_learns_and_is_finished():
    torch.manual_seed(0)
    net = with_statistics(Tiny(), side=8)
    student = levels.learning(fold_all(net), trace(net), 8, 8)
    x = torch.rand(4, 3, 8, 8)
    wanted, learned = net(x), student(x)
    assert (learned - wanted).norm() < 0.1 * wanted.norm()
    done = levels.finished(student)
    assert [type(m) for m in done.modules()].count(levels.LevelLayer) == 2
    torch.testing.assert_close(done(x), learned, atol=1e-4, rtol=1e-4)


def test_limits_have_a_shape_that_broadcasts():
    weight = noise(4, 3, 2, 2)
    low, high = levels.weight_limits(weight, per_channel=True)
    assert low.shape == (4, 1, 1, 1) and (weight >= low).all() and (weight <= high).all()
    assert levels.weight_limits(weight)[0] == weight.min()
