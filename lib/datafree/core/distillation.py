"""Teach a student: the one loop that trains compressed networks, the batches it draws, and the distance of outputs.

Distillation, Feature Regression, layer-wise training and the baselines differ in their losses; all else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..config import Precision
from ..data.images import ImageSet, random_crop_and_mirror
from .folding import folded
from .hooks import evaluating
from .optimization import FitConfig, fit

Extra = Callable[[], torch.Tensor]
"""Draws one more loss of the student, a scalar that is added in every step."""


def output_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    r"""KL divergence of the student's outputs from the teacher's (The Knowledge Within, section 4.2).

    .. math:: \frac{T^2}{N} \sum_i \sum_k p_{ik} \log\frac{p_{ik}}{q_{ik}}, \qquad
              p = \mathrm{softmax}(z^{\text{teacher}} / T), \; q = \mathrm{softmax}(z^{\text{student}} / T)

    Args:
        student, teacher: logits [N, K].
        temperature: T; not given in the paper.
    Returns:
        a scalar in nats, never negative. Book: {ref}`kw-kd`.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    # T^2 keeps the size of the gradient, which falls as 1 / T^2
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


BatchNormMode = Literal["frozen", "running", "batch"]
"""frozen: evaluation mode; running: it adapts to the batches; batch: it trains on their statistics, and forgets them."""


class StudentConfig(FitConfig):
    """How a student is trained, whatever its loss."""

    batch: int = Field(64, ge=1, description="images a step")
    batchnorm: BatchNormMode = Field("frozen", description="what BatchNorm does meanwhile, see `batchnorm_mode`")
    precision: Precision = Field("auto", description="of the networks' passes")
    seed: int = Field(0, ge=0)


class Batches:
    """Draws batches from a set of images; the sequence depends on the seed alone.

    Args:
        size: images a batch.
        replacement: else each batch has different images, and is the whole set where that is no larger than `size`.
        augment: crop and mirror each drawn image at random.
    """

    def __init__(
        self, images: ImageSet, size: int, *, seed: int = 0, replacement: bool = True, augment: bool = False
    ):  # fmt: skip
        self.images, self.size, self.replacement, self.augment = images, size, replacement, augment
        self.generator = torch.Generator().manual_seed(seed)

    def index(self) -> torch.Tensor | slice:
        """Which images come next."""
        count = len(self.images)
        if self.replacement:
            return torch.randint(0, count, (self.size,), generator=self.generator, device="cpu")
        return (
            slice(None)
            if count <= self.size
            else torch.randperm(count, generator=self.generator, device="cpu")[: self.size]
        )

    def __call__(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [size, C, H, W] and their labels."""
        drawn = self.images[self.index()]
        x = drawn.floats()
        x = random_crop_and_mirror(x, self.generator) if self.augment else x
        return x.contiguous(memory_format=torch.channels_last), drawn.labels


@contextmanager
def batchnorm_mode(student: nn.Module, mode: BatchNormMode) -> Iterator[None]:
    """Within the block only BatchNorm layers train, or none; with 'batch' what they have stored stays as it is."""
    norms = [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    with evaluating(student):
        for module in norms:
            module.training = mode != "frozen"
            module.momentum = 0.0 if mode == "batch" else module.momentum  # running + 0 (batch - running)
        try:
            yield
        finally:
            for module, momentum in zip(norms, momenta):
                module.momentum = momentum


def train_student(
    student: nn.Module, loss: Callable[..., torch.Tensor], config: FitConfig, *, draw: Callable[[], Sequence] = tuple,
    teacher: nn.Module | None = None, batchnorm: BatchNormMode = "frozen", parameters: Sequence[nn.Parameter] | None = None,
    extra: Extra | None = None, watch: Callable[[int], None] | None = None, what: str = "training", progress: bool = True,
    looked_at: Collection[str] = (),
) -> list[float]:  # fmt: skip
    """Train `student` in place; all modes and flags are as before afterwards.

    Args:
        loss: of the batch that `draw` gives, a scalar with gradients to the student.
        draw: the arguments of `loss`; default: none, for a loss that draws by itself.
        teacher: frozen meanwhile, with BatchNorm inside its convolutions (`folding.folded`).
        looked_at: convolutions of the teacher whose outputs the loss reads; they stay as they are.
        batchnorm: what the BatchNorm layers of the student do; the rest of it is in evaluation mode.
        parameters: what is trained; default: all that require gradients.
        extra: one more loss, added in every step.
        watch: called with the number of steps done, before each step.
    Returns:
        the loss of every step.
    """

    def draw_loss() -> torch.Tensor:
        value = loss(*draw())
        return value + extra() if extra else value

    with (
        batchnorm_mode(student, batchnorm),
        folded(teacher, looked_at) if teacher else nullcontext(),
        torch.enable_grad(),
    ):
        trained = [p for p in student.parameters() if p.requires_grad] if parameters is None else parameters
        return fit(trained, draw_loss, config, before=watch, what=what, progress=progress)
