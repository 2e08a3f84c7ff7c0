"""FRanDI, section 3.3: Output Discrepancy, budgets, and the search for ranks."""

import pytest
import torch
from conftest import quick_frandi, scores_one_by_one

from datafree import FRanDI
from datafree.errors import DataFreeError
from datafree.networks.zoo import build_network
from datafree.papers.frandi import factorization, regression, selection


def test_output_discrepancy_is_the_discrepancy_of_the_outputs():
    s, t = (torch.randn(6, 10, generator=torch.Generator().manual_seed(k)) for k in (0, 1))
    assert selection.output_discrepancy(s, t) == regression.discrepancy(s, t)


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
            share = cost(dict(zip(factors.layers, row))) / dense
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
    def test_scores_and_ranking_are_those_of_the_naive_way(self, factors, images, calibrated):
        rows = selection.Sampler(factors, quick_frandi(candidates=6, branches=2)).rows()
        naive = scores_one_by_one(factors, rows, images, calibrated)
        found = selection.discrepancies(factors, rows, images, calibrated=calibrated, precision="float32")
        assert found == pytest.approx(naive, rel=5e-3)  # running variances are unbiased, those of a batch are not
        order = sorted(range(len(rows)), key=naive.__getitem__)
        assert all(found[a] <= 1.01 * found[b] for a, b in zip(order, order[1:]))

    def test_the_lowest_score_wins(self, factors, images):
        found = selection.search(factors, images, quick_frandi(candidates=8))
        assert tuple(found.ranks.values()) == found.rows[found.scores.index(min(found.scores))]

    def test_full_ranks_score_zero(self, factors, images):
        full = tuple(layer.full_rank for layer in factors.layers.values())
        assert selection.discrepancies(factors, [full], images, precision="float32")[0] == pytest.approx(0, abs=1e-3)

    def test_broken_weights_are_told(self, net, images):
        factors = factorization.Factorizer(net, (3, 8, 8))
        net.linear.weight.data.fill_(float("nan"))
        with pytest.raises(DataFreeError, match="NaN"):
            selection.search(factors, images, quick_frandi())
