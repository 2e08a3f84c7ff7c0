"""FRanDI: its loss, its discrepancy, its recovery and its search, by what the mathematics guarantees."""

import pytest
import torch
from conftest import SmallNet, quick_frandi, scores_one_by_one, with_statistics
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import datafree
from datafree import FRanDI
from datafree.baselines import feature_losses
from datafree.core import batchnorm, quantized
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash
from datafree.networks.zoo import build_network
from datafree.papers.frandi import compression, factorization, regression, selection, synthesis


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


@pytest.fixture
def factors(net):
    return factorization.Factorizer(net, (3, 8, 8))


@pytest.fixture
def pool():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")


def maps(seed=0, shape=(3, 4, 5, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestStatisticsLoss:
    def moments(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return [(torch.randn(c, generator=generator), 0.1 + torch.rand(c, generator=generator)) for c in (3, 5)]

    def test_zero_where_all_agree_and_above_elsewhere(self):
        a, b = self.moments(0), self.moments(1)
        for literal in (False, True):
            assert synthesis.statistics_loss(a, a, literal=literal).item() == pytest.approx(0, abs=1e-5)
            assert synthesis.statistics_loss(a, b, literal=literal) > 0.1

    @pytest.mark.parametrize("literal", [False, True])
    def test_it_is_the_sum_of_divergences_of_normal_distributions(self, literal):
        measured, stored = self.moments(0), self.moments(1)
        law = lambda m: torch.distributions.Normal(m[0], m[1].sqrt())  # noqa: E731
        pairs = [(law(m), law(s)) for m, s in zip(measured, stored)]
        divergence = torch.distributions.kl_divergence
        wanted = sum((divergence(m, s) if literal else divergence(s, m)).sum() for m, s in pairs)
        torch.testing.assert_close(synthesis.statistics_loss(measured, stored, literal=literal), wanted)

    def test_a_constant_channel_is_finite(self):
        dead = [(torch.zeros(2), torch.zeros(2))]
        assert synthesis.statistics_loss(dead, [(torch.zeros(2), torch.ones(2))]).isfinite()

    def test_layers_must_match(self):
        with pytest.raises(ValueError):
            synthesis.statistics_loss(self.moments(0), self.moments(1)[:1])


class TestSynthesis:
    def test_the_loss_falls_and_nothing_else_moves(self, net):
        before = state_hash(net)
        config = synthesis.Synthesis(steps=25, images=8, precision="float32")
        images, history = synthesis.synthesize(net, config, (3, 8, 8))
        assert history[-1] < 0.5 * history[0]
        assert images.pixels.shape == (8, 3, 8, 8) and (images.labels == -1).all()
        assert state_hash(net) == before

    def test_labels_and_outputs_play_no_part(self, net):
        """The classifier may be anything: the images are the same."""
        config = synthesis.Synthesis(steps=3, images=4, precision="float32")
        first, _ = synthesis.synthesize(net, config, (3, 8, 8))
        net.linear = nn.Linear(8, 2)
        second, _ = synthesis.synthesize(net, config, (3, 8, 8))
        assert torch.equal(first.pixels, second.pixels)

    def test_regularisers_lower_what_they_weigh(self, net):
        plain = dict(steps=20, images=4, precision="float32", rate=0.05)
        size = {w: synthesis.synthesize(net, synthesis.Synthesis(**plain, size=w), (3, 8, 8))[0] for w in (0.0, 30.0)}
        assert size[30.0].pixels.norm() < size[0.0].pixels.norm()
        rough = {
            w: synthesis.synthesize(net, synthesis.Synthesis(**plain, variation=w), (3, 8, 8))[0] for w in (0.0, 30.0)
        }
        variation = lambda images: (images.pixels[..., 1:] - images.pixels[..., :-1]).norm()  # noqa: E731
        assert variation(rough[30.0]) < variation(rough[0.0])

    def test_seeds_decide(self, net):
        made = [
            synthesis.synthesize(net, synthesis.Synthesis(steps=2, images=4, seed=s, precision="float32"), (3, 8, 8))[
                0
            ].pixels
            for s in (1, 1, 2)
        ]
        assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])

    def test_it_needs_batchnorm_and_tells_of_divergence(self):
        bare = nn.Sequential(Normalize(), nn.Conv2d(3, 4, 3))
        with pytest.raises(DataFreeError, match="no BatchNorm"):
            synthesis.synthesize(bare, synthesis.Synthesis(steps=1), (3, 8, 8))
        broken = SmallNet()
        broken.body[0].weight.data.fill_(float("nan"))
        with pytest.raises(DataFreeError, match="synthesis diverged at step 0"):
            synthesis.synthesize(broken, synthesis.Synthesis(steps=1, images=2, precision="float32"), (3, 8, 8))


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
        assert regression.discrepancy(s, -s, scope).item() == pytest.approx(2)

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

    def test_output_discrepancy_is_the_same_formula(self):
        s, t = maps(0, (6, 10)), maps(1, (6, 10))
        assert selection.output_discrepancy(s, t) == regression.discrepancy(s, t)

    def test_regression_adds_up_the_layers(self):
        s, t = [maps(0), maps(1)], [maps(2), maps(3)]
        total = regression.feature_regression(s, t)
        torch.testing.assert_close(total, sum(regression.discrepancy(a, b) for a, b in zip(s, t)))
        with pytest.raises(ValueError):
            regression.feature_regression(s, t[:1])


def compact(conv, rank=3):
    return factorization.compact_weight(factorization.decompose(conv.weight), rank, conv.weight.shape)


def test_distortion_is_the_response_of_what_was_removed():
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, padding=1, bias=False).double(), maps(0).double()
    layer = lambda w, z: nn.functional.conv2d(z, w, padding=1)  # noqa: E731
    torch.testing.assert_close(
        regression.distortion(layer, compact(conv), conv.weight, x), -layer(conv.weight - compact(conv), x)
    )


class TestOtherLosses:
    def test_zero_for_the_teacher_itself(self):
        t = maps(0)
        assert feature_losses.fitnets(t, t) == 0 == feature_losses.attention(t, t)
        assert feature_losses.overhaul(t, t, torch.full((4,), -1e9)) == 0

    def test_fitnets_grows_with_the_square(self):
        s, t = maps(0), maps(1)
        torch.testing.assert_close(feature_losses.fitnets(3 * s, 3 * t), 9 * feature_losses.fitnets(s, t))

    def test_attention_sees_neither_channels_nor_scale(self):
        s, t = maps(0), maps(1)
        moved = 7 * s[:, torch.tensor([2, 0, 3, 1])]
        torch.testing.assert_close(feature_losses.attention(moved, t), feature_losses.attention(s, t))

    def test_overhaul_forgives_what_relu_removes(self):
        t = torch.tensor([-1.0, -1.0, -1.0, 2.0]).view(1, 1, 2, 2)
        s = torch.tensor([-5.0, 0.5, -0.1, -3.0]).view(1, 1, 2, 2)
        margin = torch.tensor([-0.5])  # targets are -0.5, -0.5, -0.5, 2
        assert feature_losses.overhaul(s, t, margin).item() == pytest.approx(1.0**2 + 0.4**2 + 5**2)

    def test_the_margin_is_the_mean_of_negative_values(self):
        norm = nn.BatchNorm2d(3)
        norm.weight.data, norm.bias.data = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 30.0])
        draws = norm.bias + norm.weight * torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
        found = feature_losses.negative_mean(norm)
        for c in (0, 1):
            assert found[c].item() == pytest.approx(draws[:, c][draws[:, c] < 0].mean().item(), abs=0.02)
        assert found[2] == 0  # never negative


class TestRegression:
    def test_it_brings_features_closer_and_leaves_the_teacher(self, net, factors, pool):
        before = state_hash(net)
        ranks = {name: 3 for name in factors.sites}
        student = factors.network(ranks)
        config = regression.Recovery(steps=30, rate=0.02, precision="float32")
        work = regression.Regression(student, net, list(ranks), pool, config)
        history = work.run()
        assert history[-1] < 0.9 * history[0]
        assert state_hash(net) == before and not student.training

    def test_the_full_rank_student_has_nothing_to_learn(self, net, factors, pool):
        full = {name: site.full_rank for name, site in factors.sites.items()}
        config = regression.Recovery(steps=1, precision="float32", rate=1e-6)
        history = regression.Regression(factors.network(full), net, list(full), pool, config).run()
        assert history[0] == pytest.approx(0, abs=1e-3)

    def test_features_come_from_the_students_own_inputs(self, net, factors, pool):
        """Damage in the first layer alone is seen in the layers behind it."""
        first, *others = factors.sites
        student = factors.network({first: 1})
        config = regression.Recovery(steps=1, precision="float32")
        assert regression.Regression(student, net, others, pool, config).draw_loss() > 0.05

    @pytest.mark.parametrize("mode, moves", [("frozen", False), ("running", True)])
    def test_batchnorm_adapts_only_if_asked(self, net, factors, pool, mode, moves):
        student = factors.network({name: 3 for name in factors.sites})
        before = [m.running_mean.clone() for _, m in batchnorm.layers(student)]
        config = regression.Recovery(steps=1, batchnorm=mode, precision="float32")
        regression.Regression(student, net, list(factors.sites), pool, config).run()
        after = [m.running_mean for _, m in batchnorm.layers(student)]
        assert any(not torch.equal(a, b) for a, b in zip(before, after)) == moves

    def test_parts_of_a_larger_set_are_compared_with_their_own_features(self, net, factors, pool):
        full = {name: site.full_rank for name, site in factors.sites.items()}
        config = regression.Recovery(steps=1, batch=5, precision="float32")
        work = regression.Regression(factors.network(full), net, list(full), pool, config)
        assert work.draw_loss().item() == pytest.approx(0, abs=1e-3)

    def test_taps_behind_batchnorm(self, net, factors):
        assert regression.positions(net, ["body.3", "body.6"], "norm") == ("body.4", "body.7")
        assert regression.positions(net, ["body.3"], "conv") == ("body.3",)
        with pytest.raises(DataFreeError, match="no BatchNorm reads 'linear'"):
            regression.positions(net, ["linear"], "norm")

    def test_watching_and_unknown_layers(self, net, factors, pool):
        seen = []
        config = regression.Recovery(steps=3, precision="float32")
        regression.Regression(factors.network({}), net, ["body.3"], pool, config, watch=seen.append).run()
        assert seen == [0, 1, 2]
        with pytest.raises(DataFreeError, match="no module 'nowhere'"):
            regression.Regression(net, net, ["nowhere"], pool, config)

    def test_divergence_is_told(self, net, factors, pool):
        student = factors.network({name: 2 for name in factors.sites})
        config = regression.Recovery(steps=40, rate=1e18, precision="float32")
        with pytest.raises(DataFreeError, match="feature regression diverged"):
            regression.Regression(
                student, net, list(factors.sites), pool, config, distance=feature_losses.fitnets
            ).run()


class TestSearch:
    @pytest.mark.parametrize("budget", ["flops", "parameters"])
    @pytest.mark.parametrize("branches", [0, 2])
    def test_every_candidate_fits_the_budget(self, factors, budget, branches):
        config = quick_frandi(budget=budget, branches=branches, candidates=20)
        rows = selection.Sampler(factors, config).rows()
        assert len(rows) == 20
        dense, cost = (
            (factors.dense_macs, factors.macs) if budget == "flops" else (factors.dense_parameters, factors.parameters)
        )
        for row in rows:
            share = cost(dict(zip(factors.sites, row))) / dense
            assert 0.5 - config.tolerance <= share <= 0.5 + config.tolerance

    def test_branches_share_beginnings(self):
        torch.manual_seed(0)
        factors = factorization.Factorizer(build_network("resnet20"))
        rows = selection.Sampler(factors, FRanDI(candidates=30, branches=2, tolerance=0.05)).rows()
        assert len({row[:6] for row in rows}) == 2 and len({row[:12] for row in rows}) == 4
        free = selection.Sampler(factors, FRanDI(candidates=30, branches=0, tolerance=0.05)).rows()
        assert len({row[:6] for row in free}) > 20

    def test_budget_is_a_band(self):
        config = FRanDI(reduction=4.0, tolerance=0.05)
        cost = torch.tensor([0.19, 0.2001, 0.25, 0.2999, 0.31])
        assert selection.within_budget(100 * cost, 100, config).tolist() == [False, True, True, True, False]

    def test_a_budget_out_of_reach_is_told(self, factors):
        with pytest.raises(DataFreeError, match="none costs 500 times less.*Ask for less reduction"):
            selection.Sampler(factors, quick_frandi(reduction=500.0, tolerance=1e-4)).rows()

    @pytest.mark.parametrize("calibrated", [False, True])
    def test_scores_and_ranking_are_those_of_the_naive_way(self, factors, pool, calibrated):
        rows = selection.Sampler(factors, quick_frandi(candidates=6, branches=2)).rows()
        naive = scores_one_by_one(factors, rows, pool, calibrated)
        found = selection.discrepancies(factors, rows, pool, calibrated=calibrated, precision="float32")
        assert found == pytest.approx(naive, rel=5e-3)  # running variances are unbiased, those of a batch are not
        order = sorted(range(len(rows)), key=naive.__getitem__)
        assert all(found[a] <= 1.01 * found[b] for a, b in zip(order, order[1:]))

    def test_the_lowest_score_wins(self, factors, pool):
        found = selection.search(factors, pool, quick_frandi(candidates=8))
        assert tuple(found.ranks.values()) == found.rows[found.scores.index(min(found.scores))]

    def test_full_ranks_score_zero(self, factors, pool):
        full = tuple(site.full_rank for site in factors.sites.values())
        assert selection.discrepancies(factors, [full], pool, precision="float32")[0] == pytest.approx(0, abs=1e-3)

    def test_broken_weights_are_told(self, net, pool):
        factors = factorization.Factorizer(net, (3, 8, 8))
        net.linear.weight.data.fill_(float("nan"))
        with pytest.raises(DataFreeError, match="NaN"):
            selection.search(factors, pool, quick_frandi())


class TestCompress:
    def test_the_report_counts_what_was_done(self, net):
        before = state_hash(net)
        result = datafree.compress(net, quick_frandi(), shape=(3, 8, 8))
        report = result.report
        assert report["method"] == "FRanDI" and report["images"] == "FRanDI" and report["candidates"] == 3
        assert report["macs"] == factorization.Factorizer(net, (3, 8, 8)).macs(report["ranks"])
        assert report["macs"] / report["macs_float"] == pytest.approx(0.5, abs=0.05)
        assert FRanDI(**report["config"]) == quick_frandi()
        assert state_hash(net) == before

    def test_given_images_take_the_place_of_generated_ones(self, net, pool, monkeypatch):
        monkeypatch.setattr(compression, "synthesize", None)
        result = datafree.compress(net, quick_frandi(recovery=None), pool, (3, 8, 8))
        assert result.report["images"] == "given" and "regression_loss" not in result.report

    def test_the_same_seed_gives_the_same_network(self, net):
        made = [state_hash(datafree.compress(net, quick_frandi(), shape=(3, 8, 8)).model) for _ in range(2)]
        assert made[0] == made[1]

    def test_the_result_can_be_quantised(self, net, pool):
        thin = datafree.compress(net, quick_frandi(recovery=None), pool, (3, 8, 8)).model
        assert len(quantized.quantized_layers(quantized.prepare(thin, 8, 8))) > 5

    @pytest.mark.parametrize(
        "settings", [{"reduction": 1.0}, {"tolerance": 0.0}, {"candidates": 0}, {"budget": "time"}, {"reduction": float("nan")}]
    )  # fmt: skip
    def test_settings_out_of_range_are_refused(self, settings):
        with pytest.raises(ValueError):
            FRanDI(**settings)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 40])
def test_distance_of_maps_and_its_gradient_are_those_of_the_formula(dtype, images):
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(images, 3, 7, 7, generator=generator)
    s = (2 * t + torch.randn(t.shape, generator=generator)).to(dtype)
    t = t.to(dtype)
    made, wide = s.clone().requires_grad_(), s.double().requires_grad_()
    d = regression.discrepancy(made, t)
    expected = (wide / wide.norm() - t.double() / t.double().norm()).norm()
    found, slope = (torch.autograd.grad(3 * v, x)[0].double() for v, x in ((d, made), (expected, wide)))
    near = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert d.item() == pytest.approx(expected.item(), rel=near)
    assert (found - slope).norm() < near * slope.norm()


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_equal_and_empty_maps_have_finite_gradients(size):
    s = size * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for a, b in ((s, s), (0 * s, s), (s, 0 * s), (0 * s, 0 * s)):
        a = a.clone().requires_grad_()
        assert torch.autograd.grad(regression.discrepancy(a, b), a)[0].isfinite().all()


def test_large_sets_are_regressed_without_keeping_their_features(net, factors, pool, monkeypatch):
    ranks = {name: 2 for name in factors.sites}
    config = regression.Recovery(steps=3, batch=5, precision="float32")

    def losses():
        return regression.Regression(factors.network(ranks), net, list(ranks), pool, config).run()

    kept = losses()
    monkeypatch.setattr(regression.Regression, "KEPT", 1)
    work = regression.Regression(factors.network(ranks), net, list(ranks), pool, config)
    assert work.wanted is None
    assert losses() == pytest.approx(kept, rel=1e-4)
