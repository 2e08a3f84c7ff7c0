"""FRanDI, section 3.2: distortion, discrepancy, and recovery by features, by what the mathematics guarantees."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from datafree.baselines import feature_losses
from datafree.core import batchnorm
from datafree.errors import DataFreeError
from datafree.networks.weights import state_hash
from datafree.papers.frandi import factorization, regression


def maps(seed=0, shape=(3, 4, 5, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first_loss(work):
    return work.loss(*work.draw())


class TestDiscrepancy:
    @given(a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3), scope=st.sampled_from(["tensor", "sample"]))
    def test_positive_factors_change_nothing(self, a, b, scope):
        s, t = maps(0), maps(1)
        torch.testing.assert_close(regression.discrepancy(a * s, b * t, scope), regression.discrepancy(s, t, scope))

    @given(seed=st.integers(0, 1000), scope=st.sampled_from(["tensor", "sample"]))
    def test_between_zero_and_two(self, seed, scope):
        s, t = maps(seed), maps(seed + 1)
        assert 0 < regression.discrepancy(s, t, scope) < 2
        assert regression.discrepancy(s, 3 * s, scope).item() == pytest.approx(0, abs=1e-5)
        assert regression.discrepancy(s, -s, scope).item() == pytest.approx(2, rel=1e-5)

    def test_gradient_is_that_of_the_formula(self):
        s, t = maps(0).double().requires_grad_(), maps(1).double()
        plain = (s / s.norm() - t / t.norm()).norm()
        (wanted,) = torch.autograd.grad(plain, s)
        (found,) = torch.autograd.grad(regression.discrepancy(s, t), s)
        torch.testing.assert_close(found.float(), wanted.float(), rtol=1e-4, atol=1e-7)

    def test_gradient_is_bounded_by_the_length_of_the_map(self):
        s = (100 * maps(0)).requires_grad_()
        (found,) = torch.autograd.grad(regression.discrepancy(s, maps(1)), s)
        assert found.norm() <= 1 / s.norm() * (1 + 1e-5)

    def test_equal_and_empty_maps_have_finite_gradients(self):
        for s, t in ((maps(0), maps(0)), (torch.zeros(2, 3, 4, 4), maps(0, (2, 3, 4, 4)))):
            for scope in ("tensor", "sample"):
                x = s.clone().requires_grad_()
                (found,) = torch.autograd.grad(regression.discrepancy(x, t, scope), x)
                assert found.isfinite().all()

    def test_scopes_differ_where_one_image_outweighs_the_others(self):
        s, t = maps(0), maps(1)
        t[0] = 1000 * s[0]
        s[0] *= 1000
        assert regression.discrepancy(s, t) < 0.1 < regression.discrepancy(s, t, "sample")

    def test_regression_adds_up_the_layers(self):
        s, t = [maps(0), maps(1)], [maps(2), maps(3)]
        total = regression.feature_regression(s, t)
        torch.testing.assert_close(total, sum(regression.discrepancy(a, b) for a, b in zip(s, t)))
        with pytest.raises(ValueError):
            regression.feature_regression(s, t[:1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_discrepancy_is_the_formula(dtype):
    s, t = (maps(k).to(dtype) for k in (0, 1))
    expected = (s.double() / s.double().norm() - t.double() / t.double().norm()).norm()
    assert regression.discrepancy(s, t).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 40])
def test_the_fast_discrepancy_is_the_plain_one_in_value_and_gradient(dtype, images):
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(images, 3, 7, 7, generator=generator)
    s = (2 * t + torch.randn(t.shape, generator=generator)).to(dtype)
    t = t.to(dtype)
    fast, wide = s.clone().requires_grad_(), s.double().requires_grad_()
    d, expected = regression.fast_discrepancy(fast, t), regression.discrepancy(wide, t.double())
    found, slope = (torch.autograd.grad(3 * v, x)[0].double() for v, x in ((d, fast), (expected, wide)))
    near = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert d.item() == pytest.approx(expected.item(), rel=near)
    assert (found - slope).norm() < near * slope.norm()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("way", [regression.discrepancy, regression.fast_discrepancy])
def test_equal_and_empty_maps_have_finite_gradients(size, way):
    s = size * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for a, b in ((s, s), (0 * s, s), (s, 0 * s), (0 * s, 0 * s)):
        a = a.clone().requires_grad_()
        assert torch.autograd.grad(way(a, b), a)[0].isfinite().all()


def compact(conv, rank=3):
    return factorization.compact_weight(factorization.decompose(conv.weight), rank, conv.weight.shape)


def test_distortion_is_the_response_of_what_was_removed():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, padding=1, bias=False).double(), maps(0).double()
    layer = lambda w, z: nn.functional.conv2d(z, w, padding=1)  # noqa: E731
    torch.testing.assert_close(
        regression.distortion(layer, compact(conv), conv.weight, x), -layer(conv.weight - compact(conv), x)
    )


class TestRegression:
    def test_it_brings_features_closer_and_leaves_the_teacher(self, net, factors, images):
        before = state_hash(net)
        ranks = {name: 3 for name in factors.layers}
        student = factors.network(ranks)
        config = regression.Recovery(steps=30, rate=0.02, precision="float32")
        work = regression.Regression(student, net, list(ranks), images, config)
        history = work.run()
        assert history[-1] < 0.9 * history[0]
        assert state_hash(net) == before and not student.training

    def test_the_full_rank_student_has_nothing_to_learn(self, net, factors, images):
        full = {name: layer.full_rank for name, layer in factors.layers.items()}
        config = regression.Recovery(steps=1, precision="float32", rate=1e-6)
        history = regression.Regression(factors.network(full), net, list(full), images, config).run()
        assert history[0] == pytest.approx(0, abs=1e-3)

    def test_features_come_from_the_students_own_inputs(self, net, factors, images):
        """Damage in the first layer alone is seen in the layers behind it."""
        first, *others = factors.layers
        student = factors.network({first: 1})
        config = regression.Recovery(steps=1, precision="float32")
        assert first_loss(regression.Regression(student, net, others, images, config)) > 0.05

    @pytest.mark.parametrize("mode, moves", [("frozen", False), ("running", True)])
    def test_batchnorm_adapts_only_if_asked(self, net, factors, images, mode, moves):
        student = factors.network({name: 3 for name in factors.layers})
        before = [m.running_mean.clone() for _, m in batchnorm.layers(student)]
        config = regression.Recovery(steps=1, batchnorm=mode, precision="float32")
        regression.Regression(student, net, list(factors.layers), images, config).run()
        after = [m.running_mean for _, m in batchnorm.layers(student)]
        assert any(not torch.equal(a, b) for a, b in zip(before, after)) == moves

    def test_parts_of_a_larger_set_are_compared_with_their_own_features(self, net, factors, images):
        full = {name: layer.full_rank for name, layer in factors.layers.items()}
        config = regression.Recovery(steps=1, batch=5, precision="float32")
        work = regression.Regression(factors.network(full), net, list(full), images, config)
        assert first_loss(work).item() == pytest.approx(0, abs=1e-3)

    def test_features_behind_batchnorm(self, net, factors):
        assert regression.positions(net, ["body.3", "body.6"], "norm") == ("body.4", "body.7")
        assert regression.positions(net, ["body.3"], "conv") == ("body.3",)
        with pytest.raises(DataFreeError, match="no BatchNorm reads 'linear'"):
            regression.positions(net, ["linear"], "norm")

    def test_watching_and_unknown_layers(self, net, factors, images):
        seen = []
        config = regression.Recovery(steps=3, precision="float32")
        regression.Regression(factors.network({}), net, ["body.3"], images, config, watch=seen.append).run()
        assert seen == [0, 1, 2]
        with pytest.raises(DataFreeError, match="no module 'nowhere'"):
            regression.Regression(net, net, ["nowhere"], images, config)

    def test_divergence_is_told(self, net, factors, images):
        student = factors.network({name: 2 for name in factors.layers})
        config = regression.Recovery(steps=40, rate=1e18, precision="float32")
        with pytest.raises(DataFreeError, match="feature regression diverged"):
            regression.Regression(
                student, net, list(factors.layers), images, config, distance=feature_losses.fitnets
            ).run()


def test_regression_minimises_the_fast_discrepancy_or_what_it_is_given(net, factors, images):
    ranks = {name: 2 for name in factors.layers}
    student = factors.network(ranks)
    for scope in ("tensor", "sample"):
        config = regression.Recovery(steps=1, precision="float32", scope=scope)
        plain = regression.Regression(
            student,
            net,
            list(ranks),
            images,
            config,
            distance=lambda s, t, scope=scope: regression.discrepancy(s, t, scope),
        )
        default = regression.Regression(student, net, list(ranks), images, config)
        assert first_loss(default).item() == pytest.approx(first_loss(plain).item(), rel=1e-5)


def test_large_sets_are_regressed_without_keeping_their_features(net, factors, images, monkeypatch):
    ranks = {name: 2 for name in factors.layers}
    config = regression.Recovery(steps=3, batch=5, precision="float32")

    def losses():
        return regression.Regression(factors.network(ranks), net, list(ranks), images, config).run()

    kept = losses()
    monkeypatch.setattr(regression.Regression, "KEPT", 1)
    work = regression.Regression(factors.network(ranks), net, list(ranks), images, config)
    assert work.wanted is None
    assert losses() == pytest.approx(kept, rel=1e-4)
