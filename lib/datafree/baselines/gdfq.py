"""GDFQ (Xu et al., 2020): a rounded network trained on the images that a generator makes of a class."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..core import batchnorm
from ..core.distillation import output_divergence
from ..core.image_optimization import Shape
from ..core.metrics import count_classes
from . import adversarial_distillation as adversarial


class GDFQConfig(adversarial.GeneratorConfig):
    """Defaults are those of the paper where it names them: a long training, cut short by `steps`."""

    steps: int = Field(80_000, ge=1, description="of the student (400 epochs of 200)")
    rate: float = Field(1e-4, gt=0, description="of the student")
    optimizer: Literal["sgd", "adam"] = "sgd"
    start: int = Field(800, ge=0, description="steps of the generator alone, at the beginning (4 epochs of 200)")
    beta: float = Field(0.1, ge=0, description="weight of BatchNorm's statistics in the generator's loss")
    gamma: float = Field(1.0, ge=0, description="weight of the teacher's outputs in the student's loss")


def generator_loss(
    logits: torch.Tensor, labels: torch.Tensor, moments: list[batchnorm.Moments], reference: list[batchnorm.Moments],
    beta: float = 0.1,
) -> torch.Tensor:  # fmt: skip
    r"""Images of the class that was asked for, with the statistics that BatchNorm stored (GDFQ, Xu et al., 2020, eqs. 3, 4).

    .. math:: H\bigl(M(G(z|y)), y\bigr) + \beta \sum_l \|\hat\mu_l - \mu_l\|_2^2 + \|\hat\sigma_l - \sigma_l\|_2^2

    Args:
        logits: [N, K], of the teacher on the images; labels: [N], the classes asked for.
        moments, reference: (mean, variance) of every layer, measured and stored, [C] each. As in `zeroq.distance` squared
            norms are divided by the number of channels.
    """
    statistics = len(reference) * batchnorm.mean_divergence(moments, reference, batchnorm.moment_mse)
    return F.cross_entropy(logits.float(), labels) + beta * statistics


def student_loss(
    student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, gamma: float = 1.0
) -> torch.Tensor:
    r"""The class asked for, and the teacher's outputs (GDFQ, Xu et al., 2020, eq. 7).

    .. math:: H\bigl(Q(x), y\bigr) + \gamma\, \mathrm{KL}\bigl(M(x) \,\|\, Q(x)\bigr)

    Args:
        student, teacher: logits [N, K] on the same images; labels: [N].
    """
    return F.cross_entropy(student.float(), labels) + gamma * output_divergence(student, teacher)


class Game(adversarial.Game):
    """The generator's noise is multiplied by a learnt vector of the class; the two losses are those above."""

    WHAT = "GDFQ"

    def __init__(self, student: nn.Module, teacher: nn.Module, config: GDFQConfig, shape: Shape):
        super().__init__(student, teacher, config, shape)
        self.classes = count_classes(teacher, shape)
        drawn = torch.randn(self.classes, config.latent, generator=self.noise, device="cpu").to(self.device)
        self.generator.classes = nn.Parameter(drawn)
        self.optimizer.add_param_group({"params": [self.generator.classes]})

    @property
    def statistics(self) -> bool:
        return True

    def images(self) -> torch.Tensor:
        z = torch.randn(self.config.batch, self.config.latent, generator=self.noise, device="cpu").to(self.device)
        self.labels = torch.randint(0, self.classes, (self.config.batch,), generator=self.noise, device="cpu").to(
            self.device
        )
        made = self.generator(z * self.generator.classes[self.labels])
        return made.contiguous(memory_format=torch.channels_last)

    def generator_loss(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.teacher(x)  # fills self.seen
        loss = generator_loss(logits, self.labels, self.seen.moments, self.reference, self.config.beta)
        return loss, loss.detach()

    def student_loss(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = self.teacher(x)
        return student_loss(self.student(x), target, self.labels, self.config.gamma)

    def before(self, done: int) -> None:
        for _ in range(self.config.start if done == 0 else 0):
            self.train_generator()
        super().before(done)


def train(
    student: nn.Module, teacher: nn.Module, config: GDFQConfig, shape: Shape = (3, 32, 32), progress: bool = False
) -> adversarial.Adversarial:
    """Train a rounded `student` in place (GDFQ, Xu et al., 2020, algorithm 1).

    Args:
        student: with its ranges; its BatchNorm keeps the stored statistics. teacher: with BatchNorm; never changed.
        shape: of one image, its sides multiples of four.
    """
    return Game(student, teacher, config, shape).play(progress=progress)
