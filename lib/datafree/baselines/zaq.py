"""ZAQ (Liu et al., 2021): a rounded network trained where a generator finds that it differs most, inside as well."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..core.hooks import feature_hooks
from ..core.image_optimization import Shape
from . import adversarial_distillation as adversarial


class ZAQConfig(adversarial.GeneratorConfig):
    """The game's settings. Weights of the terms are choices of this library."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    inside: float = Field(0.1, ge=0, description="weight of the relations of channels (alpha)")
    active: float = Field(0.05, ge=0, description="weight of strong activations in the generator's loss (beta)")


def channel_relations(maps: torch.Tensor) -> torch.Tensor:
    r"""How alike the channels of a map are, image by image (ZAQ, Liu et al., 2021, section 3.2).

    .. math:: A_{ij} = \frac{\langle f_i, f_j \rangle}{\|f_i\| \|f_j\|}

    Args:
        maps: [N, C, H, W].
    Returns:
        [N, C, C], from -1 to 1; zero for a channel that is zero everywhere.
    """
    rows = F.normalize(maps.flatten(2).float(), dim=2)
    return rows @ rows.transpose(1, 2)


def difference(
    student: torch.Tensor, teacher: torch.Tensor,
    student_maps: Sequence[torch.Tensor] = (), teacher_maps: Sequence[torch.Tensor] = (), inside: float = 0.1,
) -> torch.Tensor:  # fmt: skip
    r"""Distance of two networks' outputs and of their channels' relations (ZAQ, Liu et al., 2021, section 3.2).

    .. math:: \frac{1}{N K}\|Q(x) - P(x)\|_1 + \alpha \sum_l \frac{1}{N C_l^2}\|A^Q_l - A^P_l\|_1

    Args:
        student, teacher: logits [N, K]; maps: of the same layers of both, [N, C, H, W] each.
    """
    total = (student - teacher).abs().mean()
    for s, t in zip(student_maps, teacher_maps, strict=True):
        total = total + inside * (channel_relations(s) - channel_relations(t)).abs().mean()
    return total


class Game(adversarial.Game):
    """The generator maximises the distance that the student minimises, and prefers strong activations.

    Args:
        layers: convolutions whose channels are compared; the last one's maps are to be strong.
    """

    WHAT = "ZAQ"
    statistics = False

    def __init__(self, student: nn.Module, teacher: nn.Module, layers: Sequence[str], config: ZAQConfig, shape: Shape):
        super().__init__(student, teacher, config, shape)
        self.looked_at = tuple(layers)

    def _distance(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The distance, and the mean size of the teacher's last maps."""
        with ExitStack() as stack:
            theirs = stack.enter_context(feature_hooks(self.teacher, self.looked_at))
            ours = stack.enter_context(feature_hooks(self.student, self.looked_at))
            target, made = self.teacher(x), self.student(x)
        return difference(made, target, ours, theirs, self.config.inside), theirs[-1].abs().mean()

    def generator_loss(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gain, strength = self._distance(x)
        return -gain - self.config.active * strength, gain

    def student_loss(self, x: torch.Tensor) -> torch.Tensor:
        return self._distance(x)[0]


def train(
    student: nn.Module, teacher: nn.Module, layers: Sequence[str], config: ZAQConfig, shape: Shape = (3, 32, 32),
    progress: bool = False,
) -> adversarial.Adversarial:  # fmt: skip
    """Train a rounded `student` in place (ZAQ, Liu et al., 2021).

    Args:
        student: with its ranges; its BatchNorm keeps the stored statistics. teacher: never changed.
        layers: names of convolutions in both, such as the last of each stage.
        shape: of one image, its sides multiples of four.
    """
    return Game(student, teacher, layers, config, shape).play(progress=progress)
