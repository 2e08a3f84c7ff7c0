"""The plain way of each thing, in the order of operations of the peers' published code, with PyTorch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from datafree.core import batchnorm, quantizer
from datafree.core.image_optimization import total_variation
from datafree.core.precision import autocast
from datafree.networks.blocks import normalization
from datafree.papers.frandi import compressible, regression, selection


@contextmanager
def hooks(modules: Sequence[nn.Module], hook: Callable) -> Iterator[None]:
    """Forward hooks on all modules within the block."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seen(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Images in deviations of the input, as the network takes them."""
    mean, std = (v.view(1, -1, 1, 1) for v in normalization(model))
    return mean + images * std


def zeroq_images(model: nn.Module, images: torch.Tensor, steps: int, rate: float = 0.5) -> list[float]:
    """ZeroQ (Cai et al., 2020): outputs of all convolutions are kept, then mean and deviation of each of their images.

    Args:
        images: [N, C, H, W], in deviations of the input; optimised in place.
    Returns:
        the loss of every step.
    """
    norms = [layer for _, layer in batchnorm.layers(model)]
    wanted = [(m.running_mean, (m.running_var + 1e-6).sqrt()) for m in norms]
    wanted.append((torch.zeros(1, images.shape[1]), torch.ones(1, images.shape[1])))
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)][: len(norms)]
    kept: list[torch.Tensor] = []
    optimizer, history = torch.optim.Adam([images], lr=rate), []
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=1e-4, patience=100)
    with hooks(convolutions, lambda _module, _input, output: kept.append(output)):
        for _ in range(steps):
            model.zero_grad()
            optimizer.zero_grad()
            kept.clear()
            model(seen(model, images))
            loss = 0
            for z, (mean, deviation) in zip([*kept, images], wanted):
                z = z.reshape(*z.shape[:2], -1)
                for got, goal in ((z.mean(2), mean), ((z.var(2) + 1e-6).sqrt(), deviation)):
                    loss = loss + (goal - got).norm() ** 2 / len(got)
            loss.backward()
            optimizer.step()
            schedule.step(loss.item())
            history.append(loss.item())
    return history


def inverted_images(
    model: nn.Module, images: torch.Tensor, targets: torch.Tensor, steps: int, rate: float, variation: float, size: float
) -> list[float]:  # fmt: skip
    """Deep Inversion (Yin et al., 2020): a hook on every BatchNorm takes moments of its input over the batch.

    Args:
        images: [N, C, H, W], in deviations of the input; optimised in place. targets: [N], classes.
        variation, size: weights of the total variation and of the norm of the images.
    Returns:
        the loss of every step.
    """
    norms, terms = [layer for _, layer in batchnorm.layers(model)], []

    def hook(module, received, _output):
        (z,) = received
        mean, var = z.mean((0, 2, 3)), z.transpose(0, 1).reshape(z.shape[1], -1).var(1, unbiased=False)
        terms.append((module.running_var - var).norm() + (module.running_mean - mean).norm())

    optimizer, history = torch.optim.Adam([images], lr=rate), []
    with hooks(norms, hook):
        for _ in range(steps):
            optimizer.zero_grad()
            model.zero_grad()
            terms.clear()
            x = seen(model, images)
            loss = F.cross_entropy(model(x), targets)
            loss = loss + variation * total_variation(x) + sum(terms) + size * x.norm()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
    return history


def taught(
    student: nn.Module, teacher: nn.Module, layers: Sequence[str], draw: Callable, loss: Callable, steps: int, rate: float
) -> list[float]:  # fmt: skip
    """A student in training as most code has it: the teacher as it is, in full autograd, features kept by hooks.

    Args:
        layers: modules whose outputs are features.
        draw: () -> images. loss: (outputs and features of the student, the same of the teacher) -> scalar.
    """
    features: dict[nn.Module, list[torch.Tensor]] = {student: [], teacher: []}
    optimizer, history = torch.optim.SGD(student.parameters(), lr=rate, momentum=0.9, nesterov=True), []
    keep = {net: (lambda _m, _x, y, net=net: features[net].append(y)) for net in features}
    watched = {net: [net.get_submodule(name) for name in layers] for net in features}
    with hooks(watched[student], keep[student]), hooks(watched[teacher], keep[teacher]):
        for _ in range(steps):
            x = draw()
            for kept in features.values():
                kept.clear()
            wanted, got = teacher(x), student(x)
            value = loss((got, features[student]), (wanted.detach(), [f.detach() for f in features[teacher]]))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            history.append(value.item())
    return history


@torch.no_grad()
def scored_one_by_one(
    factors: compressible.CompressibleLayers, rows: Sequence[tuple[int, ...]], x: torch.Tensor, *, calibrated: bool,
    bf16: bool,
) -> list[float]:  # fmt: skip
    """Output Discrepancy of each set of ranks: build the network, calibrate BatchNorm, run it (FRanDI, section 3.3)."""
    found = []
    with autocast(bf16):
        wanted = factors.model(x)
    for row in rows:
        thin = factors.network(dict(zip(factors.layers, row)))
        for module in thin.modules():
            # statistics of the batch: what calibration on these images would store
            module.train(calibrated and isinstance(module, nn.BatchNorm2d))
        with autocast(bf16):
            made = thin(x)
        found.append(selection.output_discrepancy(made.float(), wanted.float()).item())
    return found


def removed_by_surgeon(gram: torch.Tensor, weight: torch.Tensor, count: int, ridge: float) -> torch.Tensor:
    """Optimal Brain Surgeon with everything anew at each removal: invert what is left, solve for all repairs."""
    whole = gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64)
    alive, weight = torch.arange(len(gram)), weight.double()
    for _ in range(len(gram) - count):
        inverse = torch.linalg.inv(whole[alive][:, alive])
        # least squares: what is left takes over all that has gone
        repaired = inverse @ (whole[alive] @ weight)
        cost = repaired.square().sum(1) / inverse.diagonal()
        alive = torch.cat([alive[: cost.argmin()], alive[cost.argmin() + 1 :]])
    return alive


def rounding_step(layer: nn.Module, weight: torch.Tensor, x: torch.Tensor, bits: int) -> Callable[[], None]:
    """The least a step of adaptive rounding must do: the layer's response with a rounded weight, and its gradient."""
    grid = quantizer.affine_grid(*quantizer.weight_range(weight, per_channel=False), bits, zero_on_grid=False)
    rounded = quantizer.round_to_grid(weight, grid).requires_grad_()
    wanted = F.conv2d(x, weight)

    def step() -> None:
        torch.autograd.grad((F.conv2d(x, rounded) - wanted).square().sum(), rounded)

    return step


def plain_discrepancies(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Feature Regression's loss by autograd alone."""
    return regression.feature_regression(student, teacher, regression.discrepancy)
