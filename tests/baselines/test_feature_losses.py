"""feature_losses: what each of table 2's distances sees, and what it does not."""

import pytest
import torch
from torch import nn

from datafree.baselines import feature_losses


def maps(seed=0, shape=(3, 4, 5, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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
