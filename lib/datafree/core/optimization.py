"""The one loop that minimises a loss, with its optimisers and its schedule; it knows nothing of networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from ..config import Strict
from ..errors import DataFreeError

Schedule = Literal["cosine", "constant"]


class FitConfig(Strict):
    """Everything about an optimisation but what it optimises."""

    steps: int = Field(16000, ge=1, description="length; a short linear warm-up, then the schedule")
    rate: float = Field(0.02, gt=0, description="peak learning rate")
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of SGD, or beta_1 of Adam")
    decay: float = Field(0.0, ge=0, description="weight decay of matrices and kernels")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps with a rising rate")
    schedule: Schedule = Field("cosine", description="of the rate after the warm-up")
    beta2: float = Field(0.999, ge=0, lt=1, description="beta_2 of Adam")


def rate_factor(step: int, steps: int, warmup: float, schedule: Schedule = "cosine") -> float:
    """Learning rate of a step as a share of its peak: a linear warm-up, then a cosine to zero, or one."""
    start = warmup * steps
    if step < start:
        return min(1.0, (step + 1) / start)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, steps - start)))


def _optimizer(parameters: Sequence[torch.Tensor], config: FitConfig) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.rate, betas=(config.momentum, config.beta2), fused=True)
    return torch.optim.SGD(groups, lr=config.rate, momentum=config.momentum, nesterov=config.momentum > 0)


def fit(
    parameters: Sequence[torch.Tensor],
    draw_loss: Callable[[], torch.Tensor],
    config: FitConfig,
    *,
    before: Callable[[int], None] | None = None,
    what: str = "training",
    progress: bool = True,
) -> list[float]:
    """Minimise what `draw_loss` returns; every image and every student of this library is optimised here.

    Args:
        draw_loss: draws a batch and returns its loss, with gradients to `parameters`.
        before: called with the number of steps done, before each step: to watch, clip, or move something else.
        what: a word for the progress bar and the error.
    Returns:
        the loss of every step.
    Raises:
        DataFreeError: a loss that is NaN or infinite.
    """
    optimizer, history = _optimizer(parameters, config), []
    schedule = LambdaLR(optimizer, lambda step: rate_factor(step, config.steps, config.warmup, config.schedule))
    for step in tqdm(range(config.steps), desc=what, leave=False, disable=None if progress else True):
        if before:
            before(step)
        loss = draw_loss()
        history.append(loss.item())
        if not torch.isfinite(loss):
            raise DataFreeError(f"{what} diverged at step {step}: the loss is NaN or infinite; use a smaller rate.")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()  # the rate of the next step
    return history
