"""Adversarial distillation (Choi et al., 2020): a generator looks for images on which the student differs most."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from ..core import batchnorm
from ..core.distillation import Extra, output_divergence, train_student
from ..core.folding import plan
from ..core.hooks import device_of
from ..core.image_optimization import Shape
from ..core.optimization import FitConfig
from ..errors import DataFreeError
from ..networks.blocks import normalization


class GeneratorConfig(FitConfig):
    """How a student learns from a generator's images."""

    steps: int = Field(2000, ge=1, description="of the student")
    rate: float = Field(1e-3, gt=0, description="peak rate of the student")
    optimizer: Literal["sgd", "adam"] = "adam"
    batch: int = Field(64, ge=2, description="images a step")
    generator_rate: float = Field(1e-3, gt=0, description="rate of Adam on the generator")
    every: int = Field(1, ge=1, description="steps of the student for one of the generator")
    latent: int = Field(64, ge=1, description="size of the generator's input")
    width: int = Field(64, ge=4, description="channels of the generator's first layers")
    seed: int = Field(0, ge=0)


class AdversarialConfig(GeneratorConfig):
    """How generator and student play against each other. The paper that uses it as a baseline gives no setting."""

    alpha: float = Field(0.1, ge=0, description="weight of what keeps the images plausible (Choi et al., 2020, eq. 4)")


class Generator(nn.Module):
    """Noise [N, latent] -> images of `shape`: a linear layer, two upsamplings, three convolutions.

    The last BatchNorm has no scale of its own, so the images have the mean and deviation of the network's input.
    """

    def __init__(self, teacher: nn.Module, shape: Shape, latent: int, width: int):
        super().__init__()
        channels, height, side = shape
        if height % 4 or side % 4:
            raise DataFreeError(f"the generator makes images whose sides are multiples of 4, not {height} x {side}.")
        mean, std = normalization(teacher)
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())
        self.first = nn.Sequential(
            nn.Linear(latent, width * height * side // 16), nn.Unflatten(1, (width, height // 4, side // 4)), nn.BatchNorm2d(width)
        )  # fmt: skip
        halves = (width, width, width // 2)
        ups = [(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)) for a, b in zip(halves, halves[1:])]  # fmt: skip
        self.rest = nn.Sequential(
            *(m for up in ups for m in up), nn.Conv2d(width // 2, channels, 3, padding=1), nn.BatchNorm2d(channels, affine=False)
        )  # fmt: skip

    def forward(self, z):
        return self.rest(self.first(z)) * self.std + self.mean


@dataclass(frozen=True)
class Adversarial:
    """history: distance of every step of the student; gained: what the generator maximised; generator: as it ended."""

    history: list[float]
    gained: list[float]
    generator: Generator


def plausibility(
    logits: torch.Tensor, moments: list[batchnorm.Moments], reference: list[batchnorm.Moments]
) -> torch.Tensor:
    r"""What a generator of plausible images keeps small (Choi et al., 2020, eq. 4).

    .. math:: J_{KL} + \frac1N\sum_i H(p_i) - H\Bigl(\frac1N\sum_i p_i\Bigr)

    BatchNorm's statistics agree, each image is of one class, and all classes occur.
    """
    p = logits.softmax(1)
    # sure of each image: small entropies; all classes occur: a large entropy of the mean
    entropy = torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()
    return batchnorm.mean_divergence(moments, reference) + entropy


class Game:
    """One generator against one student: `before` trains the generator, `loss` is what the student minimises.

    Other methods that train on a generator's images differ in `generator_loss` and `student_loss`.
    """

    WHAT = "adversarial distillation"
    looked_at: tuple[str, ...] = ()
    """Convolutions of the teacher whose outputs a loss reads."""

    def __init__(self, student: nn.Module, teacher: nn.Module, config: GeneratorConfig, shape: Shape):
        self.student, self.teacher, self.config = student, teacher, config
        self.device = device_of(teacher)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(config.seed)
            self.generator = Generator(teacher, shape, config.latent, config.width).to(self.device)
        self.noise = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_rate, betas=(0.5, 0.999), fused=True
        )
        self.reference = batchnorm.stored(teacher) if self.statistics else []
        self.seen, self.gained = None, []

    @property
    def statistics(self) -> bool:
        """Whether the generator looks at the teacher's BatchNorm."""
        return bool(self.config.alpha)

    def images(self) -> torch.Tensor:
        z = torch.randn(self.config.batch, self.config.latent, generator=self.noise, device="cpu")
        return self.generator(z.to(self.device)).contiguous(memory_format=torch.channels_last)

    def generator_loss(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the generator minimises on its images, and the part of it that the history keeps."""
        target = self.teacher(x)
        gain = output_divergence(self.student(x), target)
        loss = -gain  # the generator maximises what the student minimises
        if self.config.alpha:
            loss = loss + self.config.alpha * plausibility(target, self.seen.moments, self.reference)
        return loss, gain

    def student_loss(self, x: torch.Tensor) -> torch.Tensor:
        """Distance of the student's outputs on fresh images."""
        with torch.no_grad():
            target = self.teacher(x)
        return output_divergence(self.student(x), target)

    def train_generator(self) -> None:
        loss, gain = self.generator_loss(self.images())
        if not torch.isfinite(loss):
            raise DataFreeError(f"{self.WHAT}: the generator's loss is NaN or infinite; use a smaller rate.")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.generator.parameters()))
        self.optimizer.step()
        self.gained.append(gain.item())

    def before(self, done: int) -> None:
        """One step of the generator, where it is its turn."""
        if done % self.config.every == 0:
            self.train_generator()

    def loss(self) -> torch.Tensor:
        with torch.no_grad():
            x = self.images()
        return self.student_loss(x)

    def play(self, extra: Extra | None = None, progress: bool = False) -> Adversarial:
        """Train the student in place."""
        with (
            batchnorm.capture(self.teacher, *plan(self.teacher, self.looked_at))
            if self.statistics
            else nullcontext() as self.seen
        ):
            history = train_student(
                self.student, self.loss, self.config, teacher=self.teacher, extra=extra, watch=self.before,
                what=self.WHAT, progress=progress, looked_at=self.looked_at,
            )  # fmt: skip
        return Adversarial(history, self.gained, self.generator)


def distill_adversarially(
    student: nn.Module, teacher: nn.Module, config: AdversarialConfig, shape: Shape = (3, 32, 32), *,
    extra: Extra | None = None, progress: bool = False,
) -> Adversarial:  # fmt: skip
    r"""Train `student` in place on images of a generator that looks for where it differs most (Choi et al., 2020, eq. 3).

    .. math:: \min_{\text{student}} \max_{\text{generator}}\; \mathrm{KL}\bigl(p^{\text{teacher}}(g(z)) \,\|\, p^{\text{student}}(g(z))\bigr)
              - \alpha\,\mathcal L_{\text{plausible}}

    Args:
        teacher: with BatchNorm, unless alpha is zero; never changed.
        shape: of one image. extra: one more loss of the student, added in every step.
    """
    return Game(student, teacher, config, shape).play(extra, progress)
