"""Distillation without data: images made by gradients through the whole network, then a student that learns from them.

Deep Inversion (Yin et al., 2020) optimises images first and distils on them; adversarial distillation (Choi et al.,
2020) trains a generator against the student. Both are the costly baselines of Layer-Wise Data-Free CNN Compression.
The student may be any module with gradients: quantised with straight-through rounding, or soft-thresholded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from . import bn, data, models
from .distill import DistillConfig, FitConfig, distill, fit, output_divergence
from .errors import DataFreeError
from .evaluate import evaluating

Extra = Callable[[], torch.Tensor]
"""Draws one more loss of the student, a scalar that is added in every step."""

Shape = tuple[int, int, int]


def normalisation(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """mean, std [C] of the model's first Normalize layer."""
    for module in model.modules():
        if isinstance(module, models.Normalize):
            return module.mean.flatten(), module.std.flatten()
    raise DataFreeError(
        f"{type(model).__name__} has no datafree.models.Normalize layer, so the moments of its inputs are unknown; "
        "put nn.Sequential(Normalize(mean, std), network) in its place."
    )


def unnormalise(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Values in deviations from the mean as images in the units of the network's input; not clipped."""
    mean, std = (v.view(1, -1, 1, 1) for v in normalisation(model))
    return torch.addcmul(mean, x, std).contiguous(memory_format=torch.channels_last)


class ImageConfig(FitConfig):
    """An optimisation of images: by Adam, some of them together."""

    optimizer: Literal["sgd", "adam"] = "adam"
    batch: int = Field(64, ge=2, description="images optimised together")
    seed: int = Field(0, ge=0)


def optimise_images(
    model: nn.Module, loss: Callable, count: int, shape: Shape, config: FitConfig, seed: int, *, what: str,
    progress: bool = False,
) -> tuple[torch.Tensor, list[float]]:  # fmt: skip
    """`count` images that start as normal noise and minimise `loss` by gradients through the whole network.

    Args:
        model: with BatchNorm; never changed.
        loss: (images [N, C, H, W], logits, moments of every BatchNorm input) -> scalar.
        seed: of the noise. what: a word for the error, where the loss becomes NaN.
    Returns:
        the images, in the units of the network's input and not clipped, and the loss of every step.
    """
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    with bn.capture(model) as seen:

        def draw_loss() -> torch.Tensor:
            x = unnormalise(noise, model)
            logits = model(x)
            return loss(x, logits, seen.moments)

        history = fit([noise], draw_loss, config, what=what, progress=progress)
    return unnormalise(noise.detach(), model), history


# Deep Inversion ---------------------------------------------------------------------------------------------------


class InversionConfig(ImageConfig):
    """How Deep Inversion makes its images; defaults are those of Yin et al. (2020) for CIFAR-10, where they are given."""

    steps: int = Field(2000, ge=1, description="of Adam on a batch of images")
    rate: float = Field(0.05, gt=0, description="peak rate of Adam, in deviations of the input")
    momentum: float = Field(0.5, ge=0, lt=1)
    batch: int = Field(256, ge=2, description="images optimised together; BatchNorm's statistics are theirs")
    statistics: float = Field(1.0, ge=0, description="weight of the BatchNorm term (given: 1 to 100)")
    variation: float = Field(2.5e-5, ge=0, description="weight of the total variation")
    size: float = Field(3e-8, ge=0, description="weight of the images' L2 norm")


def statistics_distance(measured: list[bn.Moments], reference: list[bn.Moments]) -> torch.Tensor:
    r"""How far BatchNorm's inputs are from what it stored (Yin et al., 2020, eq. 4).

    .. math:: \sum_l \|\hat\mu_l - \mu_l\|_2 + \|\hat\sigma^2_l - \sigma^2_l\|_2

    Args:
        measured, reference: (mean, variance) of every layer, [C] each.
    Returns:
        a scalar, zero where all agree.
    """
    return torch.stack([(a - b).norm() for m, r in zip(measured, reference) for a, b in zip(m, r)]).sum()


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """L2 norms of the differences of pixels to their neighbours: right, below, and on both diagonals."""
    right, below = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    falling, rising = images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]
    return sum(difference.norm() for difference in (right, below, falling, rising))


def invert(
    teacher: nn.Module, config: InversionConfig, count: int, shape: Shape = (3, 32, 32), progress: bool = False
) -> tuple[data.ImageSet, list[float]]:
    r"""Images that a network would take for members of given classes (Deep Inversion, Yin et al., 2020, section 3.2).

    .. math:: \mathcal L_{\mathrm{CE}}(f(x), y) + \alpha_{\mathrm{BN}} \mathcal R_{\mathrm{BN}}
              + \alpha_{\mathrm{TV}} \mathcal R_{\mathrm{TV}} + \alpha_{\ell_2} \|x\|_2

    Args:
        teacher: with its BatchNorm layers; never changed.
        count: images to make, batch by batch.
    Returns:
        the images in [0, 1] with the classes aimed at, and the loss of every step.
    """
    reference, generator = bn.stored(teacher), torch.Generator().manual_seed(config.seed)
    with torch.no_grad(), evaluating(teacher):
        classes = teacher(torch.zeros(1, *shape)).shape[1]
    made, labels, history = [], [], []
    while sum(map(len, made)) < count:
        targets = torch.randint(0, classes, (config.batch,), generator=generator)

        def loss(x, logits, moments, targets=targets):
            prior = config.variation * total_variation(x) + config.size * x.norm()
            return (
                F.cross_entropy(logits, targets) + config.statistics * statistics_distance(moments, reference) + prior
            )

        images, losses = optimise_images(
            teacher, loss, config.batch, shape, config, config.seed * 1000 + len(made), what="Deep Inversion", progress=progress
        )  # fmt: skip
        made.append(images.clamp(0, 1))
        labels.append(targets)
        history += losses
    return data.generated(torch.cat(made)[:count], "DI", torch.cat(labels)[:count]), history


def distill_inverted(
    student: nn.Module, teacher: nn.Module, images: data.ImageSet, config: FitConfig, *, batch: int = 64, seed: int = 0,
    extra: Extra | None = None, progress: bool = False,
) -> list[float]:  # fmt: skip
    """Train `student` in place towards `teacher` on inverted images; the second half of Deep Inversion.

    Args:
        config: length and rate of the training. extra: one more loss of the student, added in every step.
    Returns:
        the loss of every step.
    """
    given = config.model_dump(include=set(FitConfig.model_fields))
    plain = DistillConfig(
        **given, batch=batch, seed=seed, temperature=1.0, features=0.0, mixing=False, precision="float32"
    )
    return distill(student, teacher, images, plain, progress, extra=extra)


# Adversarial distillation -----------------------------------------------------------------------------------------


class AdversarialConfig(FitConfig):
    """How generator and student play against each other. The paper that uses it as a baseline gives no setting."""

    steps: int = Field(2000, ge=1, description="of the student")
    rate: float = Field(1e-3, gt=0, description="peak rate of the student")
    optimizer: Literal["sgd", "adam"] = "adam"
    batch: int = Field(64, ge=2, description="images a step")
    generator_rate: float = Field(1e-3, gt=0, description="rate of Adam on the generator")
    every: int = Field(1, ge=1, description="steps of the student for one of the generator")
    alpha: float = Field(0.1, ge=0, description="weight of what keeps the images plausible (Choi et al., 2020, eq. 4)")
    latent: int = Field(64, ge=1, description="size of the generator's input")
    width: int = Field(64, ge=4, description="channels of the generator's first layers")
    seed: int = Field(0, ge=0)


class Generator(nn.Module):
    """Noise [N, latent] -> images of `shape`: a linear layer, two upsamplings, three convolutions.

    The last BatchNorm has no scale of its own, so the images have the mean and deviation of the network's input.
    """

    def __init__(self, teacher: nn.Module, shape: Shape, latent: int, width: int):
        super().__init__()
        channels, height, side = shape
        if height % 4 or side % 4:
            raise DataFreeError(f"the generator makes images whose sides are multiples of 4, not {height} x {side}.")
        mean, std = normalisation(teacher)
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


def plausibility(logits: torch.Tensor, moments: list[bn.Moments], reference: list[bn.Moments]) -> torch.Tensor:
    r"""What a generator of plausible images keeps small (Choi et al., 2020, eq. 4).

    .. math:: J_{KL} + \frac1N\sum_i H(p_i) - H\Bigl(\frac1N\sum_i p_i\Bigr)

    BatchNorm's statistics agree, each image is of one class, and all classes occur.
    """
    p = logits.softmax(1)
    entropy = torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()
    return bn.mean_divergence(moments, reference) + entropy


class _Game:
    """One generator against one student; `draw_loss` is what `fit` minimises for the student."""

    def __init__(self, student: nn.Module, teacher: nn.Module, config: AdversarialConfig, shape: Shape, extra):
        self.student, self.teacher, self.config, self.extra = student, teacher, config, extra
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator = Generator(teacher, shape, config.latent, config.width)
        self.noise = torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.generator_rate, betas=(0.5, 0.999))
        self.reference = bn.stored(teacher) if config.alpha else []
        self.seen, self.gained, self.steps = None, [], 0

    def images(self) -> torch.Tensor:
        z = torch.randn(self.config.batch, self.config.latent, generator=self.noise)
        return self.generator(z).contiguous(memory_format=torch.channels_last)

    def train_generator(self) -> None:
        x = self.images()
        target = self.teacher(x)
        gain = output_divergence(self.student(x), target)
        loss = -gain
        if self.config.alpha:
            loss = loss + self.config.alpha * plausibility(target, self.seen.moments, self.reference)
        if not torch.isfinite(loss):
            raise DataFreeError(
                "adversarial distillation: the generator's loss is NaN or infinite; use a smaller rate."
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.generator.parameters()))
        self.optimizer.step()
        self.gained.append(gain.item())

    def draw_loss(self) -> torch.Tensor:
        if self.steps % self.config.every == 0:
            self.train_generator()
        self.steps += 1
        with torch.no_grad():
            x = self.images()
            target = self.teacher(x)
        loss = output_divergence(self.student(x), target)
        return loss + self.extra() if self.extra else loss


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
    game = _Game(student, teacher, config, shape, extra)
    with bn.capture(teacher) if config.alpha else nullcontext() as seen, evaluating(student), evaluating(teacher):
        game.seen = seen
        parameters = [p for p in student.parameters() if p.requires_grad]
        history = fit(parameters, game.draw_loss, config, what="adversarial distillation", progress=progress)
    return Adversarial(history, game.gained, game.generator)
