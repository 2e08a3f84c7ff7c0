"""AdaRound (Nagel et al., 2020): for every weight of a layer, learn whether to round it up or down.

Needs inputs of the layer: real ones, or imitated ones, as the baseline of Layer-Wise Data-Free CNN Compression does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from ..core import quantizer
from ..core.optimization import FitConfig, fit
from ..core.quantized import quantized_layers
from ..errors import DataFreeError

STRETCH = (-0.1, 1.1)
"""gamma and zeta: ends of the stretched sigmoid, so that it reaches 0 and 1 (Nagel et al., section 3.2)."""

WARMUP = 0.2
"""Share of the steps in which nothing pushes h towards 0 or 1 (the authors' code)."""


class AdaRoundConfig(FitConfig):
    """Settings of the optimisation of one layer; defaults are those of Nagel et al. where they are given."""

    steps: int = Field(10_000, ge=1)
    rate: float = Field(0.01, gt=0, description="peak rate of Adam (the authors' code)")
    optimizer: Literal["sgd", "adam"] = "adam"
    momentum: float = Field(0.9, ge=0, lt=1)
    batch: int = Field(32, ge=1, description="inputs a step")
    strength: float = Field(0.01, ge=0, description="lambda, weight of the term that ends all indecision")
    sharp: tuple[float, float] = Field((20.0, 2.0), description="beta at the start and at the end")
    seed: int = Field(0, ge=0)


def rectified_sigmoid(v: torch.Tensor) -> torch.Tensor:
    r"""Between rounding down (0) and up (1) (AdaRound, Nagel et al., 2020, eq. 23).

    .. math:: h(V) = \mathrm{clip}\bigl(\sigma(V)(\zeta - \gamma) + \gamma,\, 0,\, 1\bigr)
    """
    low, high = STRETCH
    return (v.sigmoid() * (high - low) + low).clamp(0, 1)


def undecided(h: torch.Tensor, beta: float) -> torch.Tensor:
    r"""How far from 0 and 1 all of h is (AdaRound, Nagel et al., 2020, eq. 24).

    .. math:: f_{\mathrm{reg}} = \sum_{ij} 1 - |2 h_{ij} - 1|^\beta
    """
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(step: int, steps: int, sharp: tuple[float, float]) -> float:
    """Beta falls in a straight line after the warm-up."""
    start = WARMUP * steps
    share = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
    return sharp[0] + (sharp[1] - sharp[0]) * share


def response(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """W x without bias, [N, O]; of a convolution at the one place that x, as large as the kernel, allows."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight, groups=layer.groups).flatten(1)


def window(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """Height and width of an input that gives one output."""
    return (1, 1) if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)


@dataclass(frozen=True)
class Rounded:
    """weight: on its levels. error, nearest: mean squared change of the response, with it and with nearest rounding.

    changed: share of the weights that do not go to their nearest level.
    """

    weight: torch.Tensor
    error: float
    nearest: float
    changed: float


def round_adaptively(
    layer: nn.Conv2d | nn.Linear, x: torch.Tensor, bits: int, config: AdaRoundConfig | None = None
) -> Rounded:
    r"""Round a weight so that the layer's response changes least (AdaRound, Nagel et al., 2020, eq. 21).

    .. math:: \min_V \bigl\| W x - \widetilde W x \bigr\|_F^2 + \lambda f_{\mathrm{reg}}(V), \qquad
              \widetilde W = l + s \,\mathrm{clip}\Bigl(\Bigl\lfloor \tfrac{W - l}{s} \Bigr\rfloor + h(V),\, 0,\, 2^b - 1\Bigr)

    Output channels do not depend on each other, so where one ends worse than nearest rounding, that is kept.

    Args:
        layer: not changed. bits: b, on one range a tensor.
        x: inputs [N, I, k, k'] as large as the kernel, or [N, columns].
    """
    config = config or AdaRoundConfig()
    weight = layer.weight.detach()
    if x.ndim != weight.ndim or x.shape[2:] != weight.shape[2:] or not torch.isfinite(x).all():
        raise DataFreeError(
            f"AdaRound needs finite inputs as large as the kernel, [N, {', '.join(map(str, weight.shape[2:])) or 'columns'}]"
            f" behind the channels; it got a tensor of shape {list(x.shape)}."
        )
    grid = quantizer.affine_grid(*quantizer.weight_range(weight, per_channel=False), bits, zero_on_grid=False)
    exact = (weight - grid.origin) / grid.scale  # (W - l) / s
    floor = exact.floor().clamp(max=grid.top - 1)
    v = inverse_rectified_sigmoid(exact - floor).requires_grad_()
    wanted, generator, step = response(layer, weight, x), torch.Generator().manual_seed(config.seed), 0

    def draw_loss() -> torch.Tensor:
        nonlocal step
        index = torch.randint(0, len(x), (config.batch,), generator=generator, device="cpu").to(x.device)
        h = rectified_sigmoid(v)
        got = response(layer, quantizer.from_integers(floor + h, grid), x[index])
        loss = (got - wanted[index]).square().sum(1).mean()
        if step >= WARMUP * config.steps:
            loss = loss + config.strength * undecided(h, beta_at(step, config.steps, config.sharp))
        step += 1
        return loss

    fit([v], draw_loss, config, what="adaptive rounding", progress=False)
    solved = quantizer.from_integers(floor + (rectified_sigmoid(v.detach()) >= 0.5).float(), grid)
    return _better(layer, solved, quantizer.round_to_grid(weight, grid), wanted, x)


def inverse_rectified_sigmoid(h: torch.Tensor) -> torch.Tensor:
    """V with `rectified_sigmoid`(V) = h."""
    low, high = STRETCH
    return torch.logit((h - low) / (high - low))


@torch.no_grad()
def _better(layer, solved: torch.Tensor, nearest: torch.Tensor, wanted: torch.Tensor, x: torch.Tensor) -> Rounded:
    """Of both weights the one with less error, channel by channel."""
    errors = [(response(layer, weight, x) - wanted).square().mean(0) for weight in (solved, nearest)]
    keep = (errors[0] < errors[1]).view(-1, *[1] * (solved.ndim - 1))
    weight = torch.where(keep, solved, nearest)
    changed = (weight - nearest).abs() > 1e-6 * nearest.abs().max()
    best = torch.minimum(*errors).mean().item()
    return Rounded(weight, best, errors[1].mean().item(), changed.float().mean().item())


def round_network(
    student: nn.Module, model: nn.Module, draw: Callable[[str, tuple[int, int]], torch.Tensor], config: AdaRoundConfig
) -> dict[str, Rounded]:
    """Round the weights of every layer of `student` adaptively, in place; ranges of inputs stay as they are.

    Args:
        student: converted, with one range a weight that need not hold zero.
        model: the float network that `student` was made from, with the same names.
        draw: (name of a layer, (height, width)) -> inputs of that layer.
    """
    found = {}
    for name, quantised in quantized_layers(student):
        layer = model.get_submodule(name)
        found[name] = round_adaptively(layer, draw(name, window(layer)), quantised.weight_bits, config)
        quantised.core.weight.data = found[name].weight
    return found
