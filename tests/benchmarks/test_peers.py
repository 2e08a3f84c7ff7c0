"""The plain ways do the same as ours, so that only their seconds differ."""

import copy

import pytest
import torch
from benchmarks import networks, peers
from conftest import SmallNet, with_statistics

from datafree.baselines import deep_inversion
from datafree.core.distillation import output_divergence, train_student
from datafree.data.images import generated
from datafree.networks.blocks import normalization
from datafree.papers.frandi import factorization, regression, selection
from datafree.papers.udfc import moment_matching


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16).requires_grad_(False)


@pytest.fixture(scope="module")
def pool():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")


def test_zeroq_matches_images_one_by_one(net):
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = peers.zeroq_images(net, noise.clone().requires_grad_(), 20, rate=0.1)
    assert losses[-1] < losses[0]
    # the input counts as one more layer, so brighter images start with a greater loss
    brighter = (noise + 3).requires_grad_()
    assert peers.zeroq_images(net, brighter, 1)[0] > losses[0]


def test_deep_inversion_starts_with_the_loss_of_ours(net):
    config = deep_inversion.InversionConfig(steps=1, batch=6)
    start = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.randint(0, 5, (6,), generator=torch.Generator().manual_seed(0))
    _, ours = deep_inversion.invert(net, config, 6, (3, 8, 8))
    theirs = peers.inverted_images(net, start, targets, 1, config.rate, config.variation, config.size)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)


def test_images_in_deviations_reach_the_network_in_its_units(net):
    mean, _ = normalization(net)
    torch.testing.assert_close(peers.seen(net, torch.zeros(1, 3, 8, 8)), mean.view(1, 3, 1, 1).expand(1, 3, 8, 8))


@pytest.mark.parametrize("calibrated", [False, True])
def test_candidates_one_by_one_score_the_same(net, pool, calibrated):
    factors = factorization.Factorizer(net, (3, 8, 8))
    row = tuple(layer.full_rank // 3 for layer in factors.layers.values())
    rows = [row, tuple(r + 1 for r in row)]
    ours = selection.discrepancies(factors, rows, pool, calibrated=calibrated, precision="float32")
    theirs = peers.scored_one_by_one(factors, rows, pool.floats(), calibrated=calibrated, bf16=False)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_the_student_learns_the_same_in_the_plain_way(net, pool):
    factors, rate = factorization.Factorizer(net, (3, 8, 8)), 1e-3
    ranks = {name: layer.full_rank // 2 for name, layer in factors.layers.items()}
    config = regression.Recovery(steps=3, rate=rate, decay=0, schedule="constant", precision="float32")
    student = factors.network(ranks).requires_grad_(True)
    other = copy.deepcopy(student)
    ours = regression.Regression(student, net, list(ranks), pool, config).run()
    loss = lambda got, wanted: peers.plain_discrepancies(got[1], wanted[1])  # noqa: E731
    theirs = peers.taught(other, copy.deepcopy(net), list(ranks), pool.floats, loss, 3, rate)
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_outputs_reach_the_loss_of_the_plain_way(net, pool):
    student = copy.deepcopy(net).requires_grad_(True)
    with torch.no_grad():
        student.linear.weight *= torch.linspace(0.5, 2, len(student.linear.weight))[:, None]
    other, x = copy.deepcopy(student), pool.floats()
    loss = lambda got, wanted: output_divergence(got[0], wanted[0])  # noqa: E731
    theirs = peers.taught(other, net, (), lambda: x, loss, 2, 1e-2)
    config = regression.Recovery(steps=2, rate=1e-2, decay=0, schedule="constant")
    ours = train_student(student, lambda: output_divergence(student(x), net(x)), config, teacher=net, progress=False)
    assert ours[1] < ours[0] and ours == pytest.approx(theirs, rel=1e-4)


def test_the_surgeon_removes_the_same_channels():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(24, 24, generator=generator, dtype=torch.float64)
    gram, weight = x.T @ x / len(x), torch.randn(24, 10, generator=generator, dtype=torch.float64)
    ours = moment_matching.kept_by_obs(gram, weight, 15, 0.1)
    assert ours.tolist() == peers.removed_by_surgeon(gram, weight, 15, 0.1).tolist()


@pytest.mark.parametrize("axis, size", [("depth", 8), ("width", 4), ("image side", 16)])
def test_networks_of_any_size_run(axis, size):
    net, batch, side = networks.sized(axis, size)
    assert net(torch.rand(2, 3, side, side)).shape == (2, 10) and batch == networks.SIZES["batch"]
    assert len(net.layer1) == ((size if axis == "depth" else 20) - 2) // 6
    assert net.conv1.out_channels == (size if axis == "width" else 16)
