"""Teach every interval between two BatchNorm layers alone, on Gaussian inputs of its own (The Knowledge Within, section 4.2).

The paper proposes it and does not try it. The inputs are drawn from the BatchNorm layers that feed the interval,
as *Layer-Wise Data-Free CNN Compression* does; what the paper leaves open is said where it is decided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...core import quantized
from ...core.distillation import train_student
from ...core.graph import Feed, Layer, trace
from ...core.hooks import device_of, uses_of
from ...core.optimization import FitConfig


@dataclass(frozen=True)
class Interval:
    """A layer with the BatchNorm behind it, in both networks, and what feeds it. shape: [C, H, W] of its input."""

    name: str
    feed: Feed
    shape: tuple[int, ...]
    teacher: nn.Sequential
    student: nn.Sequential


def _with_norm(model: nn.Module, layer: Layer) -> nn.Sequential:
    parts = [layer.name] + ([layer.norm] if layer.norm else [])
    return nn.Sequential(*(model.get_submodule(part) for part in parts))


def intervals(student: nn.Module, teacher: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> list[Interval]:
    """One interval for each quantised convolution or linear layer of `student`."""
    wiring = trace(teacher)
    wanted = [name for name, _ in quantized.quantized_layers(student)]
    shapes = {use.name: use.received[1:] for use in uses_of(teacher, wanted, shape)}
    return [
        Interval(
            layer.name, wiring.feeding(layer.name), shapes[layer.name], _with_norm(teacher, layer), _with_norm(student, layer)
        )
        for layer in wiring.layers
        if layer.name in wanted
    ]  # fmt: skip


def draw_input(interval: Interval, model: nn.Module, batch: int, generator: torch.Generator) -> torch.Tensor:
    r"""A batch as the interval's layer would see it (The Knowledge Within, section 4.2; Layer-Wise, eqs. 10 to 12).

    .. math:: x = f\Bigl(\sum_j x_j\Bigr), \qquad x_j \sim \mathcal N(\beta_j, \gamma_j^2)

    Args:
        interval: its feed names the BatchNorm layers j, the sums and the activations f between them.
        model: where these layers are found.
    Returns:
        [batch, C, H, W], or [batch, C] for a linear layer. Pixels are independent; leaves without BatchNorm are N(0, 1).
    """
    channels, *sides = interval.shape
    height, width = sides if sides else (8, 8)  # a linear layer sees a mean over positions

    def leaf(feed: Feed) -> torch.Tensor:
        noise = torch.randn(
            batch, feed.channels or channels, height, width, generator=generator, device=generator.device
        )
        noise = noise.to(device_of(model))
        if feed.kind != "norm":
            return noise
        norm = model.get_submodule(feed.name)  # beta_j + |gamma_j| N(0, 1)
        return noise * norm.weight.abs().view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    with torch.no_grad():
        x = interval.feed.value(leaf, spatial=False)
    return x if sides else x.mean((2, 3))


def interval_loss(interval: Interval, x: torch.Tensor) -> torch.Tensor:
    """Mean squared error behind the interval's BatchNorm, divided by the teacher's variance there."""
    with torch.no_grad():
        wanted = interval.teacher(x)
    return F.mse_loss(interval.student(x), wanted) / wanted.var()


def distill_intervals(
    student: nn.Module, teacher: nn.Module, config: FitConfig, *, batch: int = 64, seed: int = 0, progress: bool = True,
    shape: tuple[int, int, int] = (3, 32, 32),
) -> list[float]:  # fmt: skip
    """Train every layer of `student` in place on noise of its own; returns the summed loss of every step.

    No gradient leaves an interval, so the sum of their losses trains each of them alone; see `interval_loss`.
    """
    generator = torch.Generator().manual_seed(seed)
    found = intervals(student, teacher, shape)

    def draw() -> list[torch.Tensor]:
        return [draw_input(interval, teacher, batch, generator) for interval in found]

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return torch.stack([interval_loss(interval, x) for interval, x in zip(found, inputs)]).sum()

    return train_student(
        student, loss, config, draw=draw, teacher=teacher, what="interval distillation", progress=progress
    )
