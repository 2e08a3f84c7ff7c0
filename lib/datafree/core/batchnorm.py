"""What BatchNorm remembers: reading it, measuring the same on other inputs, and comparing the two.

Notation: a BatchNorm layer l with C channels stores mu, var [C]; on a batch its input z [N, C, H, W]
has mu_hat, var_hat [C]. All variances are biased (divided by N H W) unless said otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from ..data.images import ImageSet
from ..errors import DataFreeError
from .hooks import evaluating, frozen, input_hooks


class Moments(NamedTuple):
    """Mean and variance of each channel, [C] both."""

    mean: torch.Tensor
    var: torch.Tensor


NamedMoments = dict[str, Moments]
"""Name of a module -> moments of what it receives or puts out."""


def bns_divergence(mu_hat, var_hat, mu, var, *, reverse: bool = False, eps: float = 1e-8) -> torch.Tensor:
    r"""Channel-wise divergence of measured from stored statistics (The Knowledge Within, eq. 1).

    .. math:: \log\frac{\sigma}{\hat\sigma}
              - \frac12\Bigl(1 - \frac{\hat\sigma^2 + (\hat\mu - \mu)^2}{\sigma^2}\Bigr)

    Args:
        mu_hat, var_hat: [C], measured on the synthetic batch.
        mu, var: [C], stored by BatchNorm.
        reverse: KL(stored || synthetic) instead, as FRanDI expands it.
        eps: added to the measured variance (section 3.3).
    Returns:
        [C] in nats, never negative. Book: {ref}`kw-bns`.
    """
    var_hat = var_hat + eps
    if reverse:
        mu_hat, var_hat, mu, var = mu, var, mu_hat, var_hat
    return 0.5 * (torch.log(var / var_hat) - 1 + (var_hat + (mu_hat - mu) ** 2) / var)


def moment_mse(mu_hat, var_hat, mu, var, *, eps: float = 1e-8) -> torch.Tensor:
    r"""Squared error of the moments, the alternative to the divergence (The Knowledge Within, section 3.3).

    .. math:: (\hat\mu - \mu)^2 + (\hat\sigma - \sigma)^2

    Args:
        mu_hat, var_hat, mu, var: [C], as in `bns_divergence`.
        eps: added to the measured variance, so that its square root has a finite gradient.
    Returns:
        [C], in squared units of the layer's input.
    """
    return (mu_hat - mu) ** 2 + ((var_hat + eps).sqrt() - var.sqrt()) ** 2


def layers(model: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """All 2-d BatchNorm layers with their names, in the order of definition.

    Raises:
        DataFreeError: there is none, or one keeps no statistics: then nothing can be synthesised.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if not found:
        raise DataFreeError(
            f"{type(model).__name__} has no BatchNorm layers, so it stores no statistics of its training data; "
            "use a network with BatchNorm that was not folded away, or the Gaussian scheme."
        )
    for name, layer in found:
        if layer.running_mean is None:
            raise DataFreeError(
                f"BatchNorm layer '{name}' keeps no running statistics; train it with track_running_stats=True."
            )
    return found


def stored(model: nn.Module) -> list[Moments]:
    """The stored (mu, var) of every BatchNorm layer, as copies without gradient."""
    return [Moments(m.running_mean.detach().clone(), m.running_var.detach().clone()) for _, m in layers(model)]


def batchnorm_with_moments(
    z: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""BatchNorm in evaluation mode, and the moments of its input.

    .. math:: y = z \cdot \mathrm{scale} + \mathrm{shift}, \qquad
              \hat\mu_c = \frac1M \sum_{n,h,w} z_{nchw}, \qquad
              \hat\sigma_c^2 = \frac1M \sum_{n,h,w} (z_{nchw} - \hat\mu_c)^2

    Args:
        z: [N, C, H, W], with M = N H W; scale, shift: [1, C, 1, 1] from `affine`.
    Returns:
        y, mu_hat [C], var_hat [C]. `BatchNormWithMoments` computes the same in fewer sweeps over memory.
    """
    mu_hat = z.float().mean((0, 2, 3))
    var_hat = z.float().var((0, 2, 3), unbiased=False)
    return (z * scale + shift).to(z.dtype), mu_hat, var_hat


class BatchNormWithMoments(torch.autograd.Function):
    """`batchnorm_with_moments` in one function with an analytic gradient; scale and shift get none.

    d(mu_hat)/dz = 1/M and d(var_hat)/dz = 2 (z - mu_hat)/M, so the gradient of any loss on the moments
    is affine in z, channel by channel: one multiply-add, joined with BatchNorm's own gradient.
    """

    @staticmethod
    def forward(ctx, z, scale, shift):
        z_float = z.float()
        mu_hat = z_float.mean((0, 2, 3))
        var_hat = (z_float.square().mean((0, 2, 3)) - mu_hat.square()).clamp_min_(0)  # E[z^2] - mu_hat^2
        ctx.save_for_backward(z, scale, mu_hat)
        return torch.addcmul(shift, z_float, scale).to(z.dtype), mu_hat, var_hat

    @staticmethod
    def backward(ctx, grad_y, grad_mu, grad_var):
        z, scale, mu_hat = ctx.saved_tensors
        count = z.numel() / z.shape[1]  # M
        slope = 2 * grad_var / count
        offset = grad_mu / count - slope * mu_hat
        # dL/dz = slope z + offset, by the moments, + scale dL/dy, by BatchNorm itself
        grad = torch.addcmul(_row(offset), z, _row(slope)).addcmul_(grad_y, scale)
        return grad.to(z.dtype), None, None


def _row(v: torch.Tensor) -> torch.Tensor:
    return v.view(1, -1, 1, 1)


def affine(layer: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """scale and shift [1, C, 1, 1] of BatchNorm in evaluation mode."""
    scale = (layer.running_var + layer.eps).rsqrt()  # gamma / sqrt(sigma^2 + eps), gamma below
    if layer.weight is not None:
        scale = scale * layer.weight.detach()
    shift = -layer.running_mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias.detach()
    return _row(scale), _row(shift)


def _unreached(missing: int, count: int) -> str:
    return (
        f"{missing} of {count} BatchNorm layers were not reached by the forward pass; "
        "remove the unused layers or run the part of the network that uses them."
    )


@dataclass
class Captured:
    """Filled by every forward pass under `capture`: one (mu_hat, var_hat) a BatchNorm layer."""

    count: int
    by_layer: dict[int, Moments] = field(default_factory=dict)

    @property
    def moments(self) -> list[Moments]:
        """In the order of `layers(model)`; they carry gradients to the input."""
        if len(self.by_layer) != self.count:
            raise DataFreeError(_unreached(self.count - len(self.by_layer), self.count))
        return [self.by_layer[i] for i in range(self.count)]


@contextmanager
def capture(model: nn.Module) -> Iterator[Captured]:
    """Within the block, every forward pass leaves the moments of each BatchNorm input in the yielded object.

    BatchNorm computes as in evaluation mode, in one sweep with its moments; parameters get no gradient.
    Nothing in the model's state changes, and its forward methods are put back at the end.
    """
    found = [layer for _, layer in layers(model)]
    seen = Captured(len(found))

    def forward_of(i: int, layer: nn.BatchNorm2d):
        scale, shift = affine(layer)

        def forward(z):
            y, mu_hat, var_hat = BatchNormWithMoments.apply(z, scale, shift)
            seen.by_layer[i] = Moments(mu_hat, var_hat)
            return y

        return forward

    try:
        with frozen(model):
            for i, layer in enumerate(found):
                layer.forward = forward_of(i, layer)
            yield seen
    finally:
        for layer in found:
            layer.__dict__.pop("forward", None)


@torch.no_grad()
def measure(model: nn.Module, images: ImageSet, batch: int = 500) -> list[Moments]:
    """The moments of every BatchNorm input over all `images`, pooled exactly over the batches."""
    with capture(model) as seen:
        sums = None
        for x, _ in images.batches(batch):
            model(x)
            # first and second moments add up over batches, variances do not
            parts = [torch.stack((mu, var + mu.square())) * len(x) for mu, var in seen.moments]
            sums = parts if sums is None else [a + b for a, b in zip(sums, parts)]
    first_second = [s / len(images) for s in sums]
    return [Moments(m, (q - m.square()).clamp_min(0)) for m, q in first_second]


@torch.no_grad()
def image_moments(model: nn.Module, images: ImageSet, batch: int = 250) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """First and second moment of every BatchNorm input, image by image: one pass serves groups of any size.

    Returns:
        (mean of z, mean of z squared) a layer, each [N, C]; see `group_divergences`.
    """
    parts: dict[str, list[torch.Tensor]] = {name: [] for name, _ in layers(model)}

    def note(name: str, z: torch.Tensor) -> None:
        z = z.float()
        parts[name].append(torch.stack((z.mean((2, 3)), z.square().mean((2, 3)))))

    with input_hooks(model, parts, note), evaluating(model):
        for x, _ in images.batches(batch):
            model(x)
    if not all(parts.values()):
        raise DataFreeError(_unreached(sum(not p for p in parts.values()), len(parts)))
    return [tuple(torch.cat(p, dim=1)) for p in parts.values()]


def group_divergences(
    moments: list[tuple[torch.Tensor, torch.Tensor]], reference: list[Moments], size: int,
    generator: torch.Generator | None = None, **options,
) -> torch.Tensor:  # fmt: skip
    """J_KL of groups of `size` images each, drawn without replacement: [N // size]; what does not fill a group is left out.

    Args:
        moments: from `image_moments`.
        reference: the stored (mean, variance) of every layer.
        size: images a group; 1 scores every image by itself.
        generator: shuffles first; None keeps the order. Data sets are often sorted by class.
        options: handed to `bns_divergence`.
    """
    count = len(moments[0][0])
    if not 1 <= size <= count:
        raise DataFreeError(f"groups of {size} cannot be drawn from {count} images; give a size from 1 to {count}.")
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    index = order[: count // size * size].view(-1, size)
    layer_values = []
    # [groups, C]: moments of a group are means of its images' moments
    for (first, second), stored_pair in zip(moments, reference):
        mu_hat, square = first[index].mean(1), second[index].mean(1)
        var_hat = (square - mu_hat.square()).clamp_min(0)
        layer_values.append(bns_divergence(mu_hat, var_hat, *stored_pair, **options).mean(1))
    return torch.stack(layer_values).mean(0)


def mean_divergence(measured: list[Moments], reference: list[Moments], loss=bns_divergence, **options) -> torch.Tensor:
    r"""J_KL: mean over channels, then over the N BatchNorm layers (The Knowledge Within, eq. 3).

    .. math:: J_{KL} = \frac1N \sum_{l=1}^{N} \frac1{C_l}\sum_{c=1}^{C_l} \mathrm{BNS}_{l,c}

    Args:
        measured, reference: one (mean, variance) pair a layer.
        loss: `bns_divergence` or `moment_mse`.
        options: handed to `loss`.
    Returns:
        a scalar, nats for the divergence. Book: {ref}`kw-jkl`.
    """
    return torch.stack([loss(*m, *r, **options).mean() for m, r in zip(measured, reference)]).mean()


def j_kl(model: nn.Module, images: ImageSet, batch: int | None = None) -> float:
    """J_KL of a set of images: statistics pooled over all of them, or the mean over batches of a given size."""
    reference = stored(model)
    if batch is None:
        return mean_divergence(measure(model, images), reference).item()
    values = []
    with torch.no_grad(), capture(model) as seen:
        for x, _ in images.batches(batch):
            if len(x) == batch:
                model(x)
                values.append(mean_divergence(seen.moments, reference).item())
    if not values:
        raise DataFreeError(f"'{images.name}' has {len(images)} images, fewer than one batch of {batch}.")
    return sum(values) / len(values)


def fold(conv: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> nn.Conv2d | nn.Linear:
    r"""A layer that computes a convolution, or a linear layer, and BatchNorm at once
    (Layer-Wise Data-Free CNN Compression, section III-A).

    .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \quad
              b' = \beta + \frac{\gamma (b - \mu)}{\sqrt{\sigma^2 + \epsilon}}

    Equal to the pair in evaluation mode; both arguments are left as they are. Book: {ref}`lw-fusion`.
    """
    scale, shift = (t.flatten() for t in affine(norm))
    folded = copy.deepcopy(conv)  # scale = gamma / sqrt(sigma^2 + eps), shift = beta - scale mu
    bias = 0 if conv.bias is None else conv.bias.detach()
    with torch.no_grad():
        folded.weight.mul_(scale.view(-1, *[1] * (conv.weight.ndim - 1)))
    folded.bias = nn.Parameter(bias * scale + shift)
    return folded


@torch.no_grad()
def recalibrate(model: nn.Module, images: ImageSet, batch: int = 256) -> nn.Module:
    """Replace every running mean and variance by those measured on `images`, layer after layer at once.

    The forward passes use batch statistics, so each layer sees inputs normalised by its own new
    statistics. The running values become the plain average over batches (variance unbiased, as PyTorch keeps it).
    """
    found = [layer for _, layer in layers(model)]
    momenta = [layer.momentum for layer in found]
    try:
        with evaluating(model):
            for layer in found:  # only BatchNorm trains: it normalises by the batch and averages what it saw
                layer.reset_running_stats()
                layer.momentum = None  # cumulative average
                layer.train()
            for x, _ in images.batches(batch):
                model(x)
    finally:
        for layer, momentum in zip(found, momenta):
            layer.momentum = momentum
    return model


SHARE_MIN = 0.05
"""The share of its input's variance that is taken to be left is never less: a BatchNorm is divided by it."""


@torch.no_grad()
def align(norm: nn.BatchNorm2d, z: torch.Tensor, before: Moments) -> None:
    r"""Move a BatchNorm's statistics by what its input has changed on the same images.

    .. math:: \mu \leftarrow \hat m + \sqrt{\hat v / v}\,(\mu - m), \qquad \sigma^2 \leftarrow \sigma^2\, \hat v / v

    where m, v are the moments `before` and hatted ones those of z [N, C, H, W]: a change z -> a z + b leaves the
    output as it was. Unlike a plain recalibration it keeps what the stored statistics know better than the images.
    Book: {ref}`ud-align`.
    """
    mean, var = before
    mean_hat = z.mean((0, 2, 3))
    var_hat = (z.square().mean((0, 2, 3)) - mean_hat.square()).clamp_min(0)
    share = (var_hat / var.clamp_min(1e-12)).clamp_min(SHARE_MIN)
    norm.running_mean.copy_(mean_hat + share.sqrt() * (norm.running_mean - mean))
    norm.running_var.mul_(share)


@torch.no_grad()
def realign(model: nn.Module, reference: nn.Module, images: ImageSet) -> nn.Module:
    """`align` every BatchNorm of `model` with what `reference` makes of the same images, layer after layer, in one pass.

    Args:
        reference: the network as it was, with BatchNorm layers of the same names.
    """
    before = dict(zip((name for name, _ in layers(reference)), measure(reference, images)))
    norms = dict(layers(model))
    with input_hooks(model, norms, lambda name, z: align(norms[name], z, before[name])), evaluating(model):
        model(images.floats())
    return model
