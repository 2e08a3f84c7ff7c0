"""FRanDI as a whole: what is reported, what may be given, what is refused."""

import pytest
import torch
from conftest import SmallNet, quick_frandi, with_statistics

import datafree
from datafree import FRanDI
from datafree.core import quantized
from datafree.data.images import generated
from datafree.networks.weights import state_hash
from datafree.papers.frandi import compression, factorization


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


@pytest.fixture
def images():
    return generated(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(3)), "noise")


class TestCompress:
    def test_the_report_counts_what_was_done(self, net):
        before = state_hash(net)
        result = datafree.compress(net, quick_frandi(), shape=(3, 8, 8))
        report = result.report
        assert report["method"] == "frandi" and report["images"] == "FRanDI" and report["candidates"] == 3
        assert report["macs"] == factorization.Factorizer(net, (3, 8, 8)).macs(report["ranks"])
        assert report["macs"] / report["macs_float"] == pytest.approx(0.5, abs=0.05)
        assert FRanDI(**report["config"]) == quick_frandi()
        assert state_hash(net) == before

    def test_given_images_take_the_place_of_generated_ones(self, net, images, monkeypatch):
        monkeypatch.setattr(compression, "synthesize", None)
        result = datafree.compress(net, quick_frandi(recovery=None), images, (3, 8, 8))
        assert result.report["images"] == "given" and "regression_loss" not in result.report

    def test_the_same_seed_gives_the_same_network(self, net):
        made = [state_hash(datafree.compress(net, quick_frandi(), shape=(3, 8, 8)).model) for _ in range(2)]
        assert made[0] == made[1]

    def test_the_result_can_be_quantised(self, net, images):
        thin = datafree.compress(net, quick_frandi(recovery=None), images, (3, 8, 8)).model
        assert len(quantized.quantized_layers(quantized.prepare(thin, 8, 8))) > 5

    @pytest.mark.parametrize(
        "settings", [{"reduction": 1.0}, {"tolerance": 0.0}, {"candidates": 0}, {"budget": "time"}, {"reduction": float("nan")}]
    )  # fmt: skip
    def test_settings_out_of_range_are_refused(self, settings):
        with pytest.raises(ValueError):
            FRanDI(**settings)
