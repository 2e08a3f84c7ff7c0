"""The fast gradient sign method, and the ROC curve and its area."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.knowledge_within import correspondence

SCORES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12).map(torch.tensor)
"""Few values, so that ties are the rule."""


@pytest.fixture
def linear():
    """logits = W x: the gradient of the loss is known, and constant in sign for two classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2, bias=False))


def pictures(count=6, size=4, low=0.3, high=0.7):
    x = low + (high - low) * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return generated(x, "pictures", torch.arange(count) % 2)


def test_the_direction_is_the_sign_of_the_weights_of_a_linear_network(linear):
    """L = log(1 + exp(z_other - z_y)), so its gradient is a positive number times (w_other - w_y)."""
    images = pictures()
    sign = correspondence.loss_gradient_sign(linear, images, images.labels)
    w = linear[1].weight.detach().view(2, 3, 4, 4)
    expected = torch.stack([(w[1 - y] - w[y]).sign() for y in images.labels])
    assert sign.dtype == torch.int8 and torch.equal(sign.float(), expected)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.3])
def test_on_a_linear_network_the_margin_falls_by_epsilon_times_the_weights(linear, epsilon):
    images = pictures()
    moved = correspondence.fgsm(images, correspondence.loss_gradient_sign(linear, images, images.labels), epsilon)
    w = linear[1].weight.detach()
    y = images.labels

    def margin(x):
        z = linear(x)
        return z.gather(1, y[:, None]) - z.gather(1, 1 - y[:, None])

    fall = epsilon * (w[0] - w[1]).abs().sum()
    torch.testing.assert_close(margin(images.floats()) - margin(moved.floats()), fall.expand(6, 1), atol=1e-4, rtol=0)
    losses = [F.cross_entropy(linear(x), y, reduction="none") for x in (images.floats(), moved.floats())]
    assert (losses[1] > losses[0]).all()


def test_no_step_in_the_maximum_norm_does_better_on_a_linear_network(linear):
    images = pictures()
    best = correspondence.fgsm(images, correspondence.loss_gradient_sign(linear, images, images.labels), 0.1).floats()
    loss = F.cross_entropy(linear(best), images.labels)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = 0.2 * torch.rand(best.shape, generator=generator) - 0.1
        assert F.cross_entropy(linear(images.floats() + step), images.labels) <= loss + 1e-6


def test_no_value_moves_further_than_epsilon_and_pictures_stay_pictures(linear):
    images = pictures(low=0.0, high=1.0)
    sign = correspondence.loss_gradient_sign(linear, images)
    moved = correspondence.fgsm(images, sign, 0.2).floats()
    assert (moved - images.floats()).abs().max() <= 0.2 + 1e-6 and moved.min() >= 0 and moved.max() <= 1
    free = correspondence.fgsm(images, sign, 0.2, clip=False).floats()
    torch.testing.assert_close((free - images.floats()).abs(), torch.full_like(free, 0.2))
    assert free.min() < 0 and free.max() > 1
    assert torch.equal(correspondence.fgsm(images, sign, 0.0).floats(), images.floats())


def test_epsilon_in_units_of_the_normalisation(linear):
    images, std = pictures(), torch.tensor((0.1, 0.2, 0.3))
    sign = correspondence.loss_gradient_sign(linear, images)
    change = correspondence.fgsm(images, sign, 0.5, std).floats() - images.floats()
    torch.testing.assert_close(change.abs().amax((0, 2, 3)), 0.5 * std)


def test_without_labels_the_networks_own_predictions_are_attacked(linear):
    images = pictures()
    own = linear(images.floats()).argmax(1)
    assert torch.equal(
        correspondence.loss_gradient_sign(linear, images), correspondence.loss_gradient_sign(linear, images, own)
    )
    assert not torch.equal(
        correspondence.loss_gradient_sign(linear, images), correspondence.loss_gradient_sign(linear, images, 1 - own)
    )


def test_the_network_is_left_alone_and_batches_do_not_matter(tiny):
    model = tiny().train()
    images = pictures(7, 8)
    before = state_hash(model)
    sign = correspondence.loss_gradient_sign(model, images)
    assert torch.equal(sign, correspondence.loss_gradient_sign(model, images, batch=2))
    assert state_hash(model) == before and model.training
    assert all(p.grad is None for p in model.parameters()) and not images.pixels.requires_grad


@pytest.mark.parametrize("labels", [torch.zeros(5, dtype=torch.long), torch.full((6,), -1)])
def test_labels_that_do_not_fit_are_refused(linear, labels):
    with pytest.raises(DataFreeError, match="'pictures' needs one label an image"):
        correspondence.loss_gradient_sign(linear, pictures(), labels)


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_epsilons_that_mean_nothing_are_refused(epsilon):
    with pytest.raises(DataFreeError, match="give a number of at least zero"):
        correspondence.fgsm(pictures(), torch.ones(6, 3, 4, 4), epsilon)


@settings(max_examples=200, deadline=None)
@given(SCORES, SCORES)
def test_the_area_counts_pairs(inside, outside):
    pairs = [(o > i) + 0.5 * (o == i) for i in inside.tolist() for o in outside.tolist()]
    assert correspondence.roc_area(inside, outside) == pytest.approx(sum(pairs) / len(pairs), abs=1e-9)
    assert correspondence.roc_area(inside, outside) + correspondence.roc_area(outside, inside) == pytest.approx(
        1, abs=1e-9
    )


def test_area_and_curve_are_those_of_torchmetrics(others_metrics):
    generator = torch.Generator().manual_seed(0)
    inside, outside = (
        torch.rand(300, generator=generator).round(decimals=2),
        torch.rand(200, generator=generator) ** 0.5,
    )
    scores, labels = torch.cat((inside, outside)), torch.cat((torch.zeros(300), torch.ones(200))).long()
    assert correspondence.roc_area(inside, outside) == pytest.approx(
        others_metrics.binary_auroc(scores, labels).item(), abs=1e-5
    )
    alarms, hits, _ = others_metrics.binary_roc(scores, labels)
    torch.testing.assert_close(correspondence.roc(inside, outside), (alarms.double(), hits.double()))


@settings(max_examples=100, deadline=None)
@given(SCORES, SCORES)
def test_the_curve_rises_from_none_to_all(inside, outside):
    alarms, hits = correspondence.roc(inside, outside)
    for share in (alarms, hits):
        assert share[0] == 0 and share[-1] == pytest.approx(1) and (share.diff() >= 0).all()
    threshold = outside.median()
    point = ((inside >= threshold).double().mean(), (outside >= threshold).double().mean())
    assert any(a == pytest.approx(point[0]) and h == pytest.approx(point[1]) for a, h in zip(alarms, hits))


def test_the_area_depends_on_the_order_only_and_is_one_for_sets_apart():
    inside, outside = torch.rand(30), torch.rand(20) + 0.5
    assert correspondence.roc_area(inside, outside) == pytest.approx(
        correspondence.roc_area(inside.exp(), outside.exp()), abs=1e-12
    )
    assert correspondence.roc_area(torch.arange(5.0), torch.arange(5.0) + 10) == 1
    assert correspondence.roc_area(torch.zeros(3), torch.zeros(4)) == 0.5


@pytest.mark.parametrize("bad", [torch.tensor([]), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])])
def test_scores_must_be_numbers(bad):
    for pair in ((bad, torch.ones(2)), (torch.ones(2), bad)):
        with pytest.raises(DataFreeError, match="finite numbers, at least one a set"):
            correspondence.roc_area(*pair)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(2, 12), st.integers(0, 1000))
def test_a_mean_prediction_is_a_distribution(count, classes, seed):
    logits = 3 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))
    for hard in (False, True):
        share = correspondence.mean_prediction(logits, hard)
        assert share.shape == (classes,) and share.min() >= 0 and share.sum().item() == pytest.approx(1, abs=1e-5)
        assert 1 - 1e-4 <= correspondence.effective_classes(share) <= classes + 1e-3
    counted = torch.bincount(logits.argmax(1), minlength=classes) / count
    torch.testing.assert_close(correspondence.mean_prediction(logits, hard=True), counted)


def test_sure_predictions_are_soft_and_hard_alike_and_entropy_counts_classes():
    logits = 1e4 * torch.eye(4)[[0, 0, 1, 2]]
    torch.testing.assert_close(
        correspondence.mean_prediction(logits), correspondence.mean_prediction(logits, hard=True)
    )
    torch.testing.assert_close(correspondence.mean_prediction(logits), torch.tensor((0.5, 0.25, 0.25, 0.0)))
    assert correspondence.effective_classes(torch.full((10,), 0.1)) == pytest.approx(10, rel=1e-5)
    assert correspondence.effective_classes(torch.tensor((1.0, 0.0))) == pytest.approx(1)
    assert correspondence.mean_prediction(torch.zeros(3, 5)).tolist() == pytest.approx([0.2] * 5)
