"""FRanDI, section 3.1: the loss of statistics, and the images that lower it."""

import pytest
import torch
from conftest import SmallNet, with_statistics
from torch import nn

from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash
from datafree.papers.frandi import synthesis


@pytest.fixture
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8, batch=16)


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
        with pytest.raises(DataFreeError, match="were compared with"):
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
        assert len(first.classes) == 5 and len(second.classes) == 2  # a class for each output

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
