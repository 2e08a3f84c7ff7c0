"""What BatchNorm remembers: reading it, measuring the same on other inputs, and comparing the two.

Notation: a BatchNorm layer l with C channels stores mu, var [C]; on a batch its input z [N, C, H, W]
has mu_hat, var_hat [C]. All variances are biased (divided by N H W) unless said otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
        eps: added to the measured variance (section 3.3), and the least stored one: a channel that died has none.
    Returns:
        [C] in nats, never negative. Book: {ref}`kw-bns`.
    """
    var_hat, var = var_hat + eps, var.clamp_min(eps)
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
    r"""`batchnorm_with_moments`, and ReLU behind it if asked for, in one function with an analytic gradient.

    .. math:: \frac{\partial \hat\mu}{\partial z} = \frac1M, \qquad
              \frac{\partial \hat\sigma^2}{\partial z} = \frac{2 (z - \hat\mu)}M

    So the gradient of any loss on the moments is affine in z, channel by channel: one multiply-add, joined with
    BatchNorm's own. scale and shift get no gradient; None stands for one and zero. alone: as in `Fold`.
    """

    @staticmethod
    def forward(ctx, z, scale=None, shift=None, relu=False, alone=False):
        mu_hat, var_hat = _moments(z.float())
        y = z if scale is None else torch.addcmul(shift, z.float(), scale).to(z.dtype)
        ctx.save_for_backward(z, scale, shift, mu_hat)
        ctx.relu, ctx.alone = relu, alone
        if relu:
            return y.relu(), mu_hat, var_hat
        return y.clone() if y is z else y, mu_hat, var_hat  # a network may write over y, as `y += x` does

    @staticmethod
    def backward(ctx, grad_y, grad_mu, grad_var):
        z, scale, shift, mu_hat = ctx.saved_tensors
        count = z.numel() / z.shape[1]  # M
        slope = _row(2 * grad_var / count)
        offset = _row(grad_mu / count) - slope * _row(mu_hat)
        if ctx.relu:
            y = z if scale is None else torch.addcmul(shift, z, scale).to(z.dtype)
            place = grad_y if ctx.alone else torch.empty_like(grad_y)
            grad_y = torch.ops.aten.threshold_backward.grad_input(grad_y, y, 0, grad_input=place)
        # dL/dz = scale dL/dy, by BatchNorm itself, + slope z + offset, by the moments
        grad = grad_y.float() if scale is None else grad_y * scale
        own = grad is not grad_y or ctx.relu  # nobody else reads it
        grad = grad.addcmul_(z, slope) if own else torch.addcmul(grad, z, slope)
        return grad.add_(offset).to(z.dtype), None, None, None, None


def _moments(z: torch.Tensor) -> Moments:
    """Mean and biased variance of each channel of [N, C, H, W], where there is one by torch's kernel of BatchNorm."""
    if z.device.type in ("cpu", "cuda"):
        return Moments(*torch.batch_norm_update_stats(z, None, None, 0.0))
    mean = z.mean((0, 2, 3))
    return Moments(mean, (z - _row(mean)).square().mean((0, 2, 3)))


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


class Fold(NamedTuple):
    """A convolution, the BatchNorm that alone reads it, and the ReLU that alone reads that, where there is one.

    alone: the ReLU's output goes to one convolution and nowhere else, so its gradient may be written over.
    """

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.ReLU | None
    alone: bool


NEAR_ZERO = 0.1
"""A channel whose gamma is less than this share of beta says little about z behind BatchNorm: it keeps the plain form."""


def halves(norm: nn.BatchNorm2d) -> tuple[tuple, tuple]:
    r"""BatchNorm as two affine maps: one for the convolution before it, and what is left behind the moments.

    .. math:: u = a z + b, \quad y = c u + d, \qquad
              (a, b, c, d) = \begin{cases} (\gamma / s,\; \beta - \gamma \mu / s,\; 1,\; 0) & |\gamma| \ge 0.1 |\beta| \\
              (1 / s,\; -\mu / s,\; \gamma,\; \beta) & \text{else} \end{cases}

    with :math:`s = \sqrt{\sigma^2 + \epsilon}`. The divergence of u's moments is that of z's, for it does not change
    under an affine map of the channel.

    Returns:
        (a, b), (c, d): [1, C, 1, 1] each; (None, None) where every c is one.
    """
    scale, shift = affine(norm)
    if norm.weight is None:
        return (scale, shift), (None, None)
    gamma, beta = _row(norm.weight.detach()), _row(norm.bias.detach())
    near = (gamma.abs() < NEAR_ZERO * beta.abs()) | (gamma == 0)
    if not near.any():
        return (scale, shift), (None, None)
    plain = _row((norm.running_var + norm.eps).rsqrt())
    first = torch.where(near, plain, scale), torch.where(near, -_row(norm.running_mean) * plain, shift)
    return first, (torch.where(near, gamma, 1.0), torch.where(near, beta, 0.0))


class Captured:
    """Filled by every forward pass under `capture`: the moments of each BatchNorm layer's input z.

    Args:
        maps: a layer's (a, b), [C] each, where u = a z + b was measured in place of z.
    """

    def __init__(self, maps: list[tuple[torch.Tensor, torch.Tensor]]):
        self.by_layer: dict[int, Moments] = {}
        self.sizes = [len(scale) for scale, _ in maps]
        self.scale, self.shift = (torch.cat(values) for values in zip(*maps))

    @property
    def moments(self) -> list[Moments]:
        """In the order of `layers(model)`; they carry gradients to the input."""
        count = len(self.sizes)
        if len(self.by_layer) != count:
            raise DataFreeError(_unreached(count - len(self.by_layer), count))
        mean, var = joined([self.by_layer[i] for i in range(count)])
        mean, var = (mean - self.shift) / self.scale, var / self.scale.square()  # of z = (u - b) / a
        return [Moments(*pair) for pair in zip(mean.split(self.sizes), var.split(self.sizes))]


def side_by_side(measured: list[Moments], reference: list[Moments]) -> tuple[torch.Tensor, ...]:
    """mu_hat, var_hat, mu, var of the channels of all layers in one row; DataFreeError where the layers differ."""
    widths = [[len(mean) for mean, _ in moments] for moments in (measured, reference)]
    if widths[0] != widths[1]:
        raise DataFreeError(f"moments of layers with {widths[0]} channels were compared with some of {widths[1]}.")
    return *joined(measured), *joined(reference)


def joined(moments: list[Moments]) -> Moments:
    """The channels of all layers in one row."""
    return Moments(*(torch.cat(values) for values in zip(*moments)))


@contextmanager
def patched(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Within the block these modules compute what they are given here; their own forward is back afterwards."""
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


def folded_conv(conv: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> Callable:
    """The forward of a convolution followed by an affine map of its channels, [1, C, 1, 1] both."""
    weight = conv.weight.detach() * scale.view(-1, 1, 1, 1)
    bias = shift.flatten() if conv.bias is None else torch.addcmul(shift.flatten(), conv.bias.detach(), scale.flatten())
    return lambda x: conv._conv_forward(x, weight, bias)


@contextmanager
def capture(model: nn.Module, folds: Iterable[Fold] = (), after_sums: Iterable[nn.ReLU] = ()) -> Iterator[Captured]:
    """Within the block, every forward pass leaves the moments of each BatchNorm input in the yielded object.

    BatchNorm computes as in evaluation mode, in one function with its moments; parameters get no gradient.
    Nothing in the model's state changes, and its forward methods are put back at the end.

    Args:
        folds: what of the model is computed with BatchNorm inside the convolution (`folding.folds`): faster, and equal
            within rounding, but what leaves these convolutions is another thing.
        after_sums: these work in place.
    """
    found = [layer for _, layer in layers(model)]
    by_norm, maps = {fold.norm: fold for fold in folds}, []
    forwards: dict[nn.Module, Callable] = {act: torch.relu_ for act in after_sums}

    def moments_of(i: int, scale, shift, relu: bool, alone: bool):
        def forward(z):
            y, mu_hat, var_hat = BatchNormWithMoments.apply(z, scale, shift, relu, alone)
            seen.by_layer[i] = Moments(mu_hat, var_hat)
            return y

        return forward

    for i, norm in enumerate(found):
        fold = by_norm.get(norm)
        one = torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)
        inner, outer = halves(norm) if fold else (one, affine(norm))
        maps.append(tuple(value.flatten() for value in inner))
        relu, alone = (fold.act is not None, fold.alone) if fold else (False, False)
        forwards[norm] = moments_of(i, *outer, relu, alone)
        if fold:
            forwards[fold.conv] = folded_conv(fold.conv, *inner)
            forwards |= {fold.act: lambda x: x} if fold.act else {}
    seen = Captured(maps)
    with frozen(model), patched(forwards):
        yield seen


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
    order = torch.arange(count, device="cpu")
    if generator is not None:
        order = torch.randperm(count, generator=generator, device=generator.device)
    index = order[: count // size * size].view(-1, size)
    layer_values = []
    # [groups, C]: moments of a group are means of its images' moments
    for (first, second), stored_pair in zip(moments, reference):
        mu_hat, square = first[index].mean(1), second[index].mean(1)
        var_hat = (square - mu_hat.square()).clamp_min(0)
        layer_values.append(bns_divergence(mu_hat, var_hat, *stored_pair, **options).mean(1))
    return torch.stack(layer_values).mean(0)


def mean_divergence(
    measured: list[Moments], reference: list[Moments], loss=bns_divergence, *, summed: bool = False, **options
) -> torch.Tensor:
    r"""J_KL: mean over channels, then over the N BatchNorm layers (The Knowledge Within, eq. 3).

    .. math:: J_{KL} = \frac1N \sum_{l=1}^{N} \frac1{C_l}\sum_{c=1}^{C_l} \mathrm{BNS}_{l,c}

    Args:
        measured, reference: one (mean, variance) pair a layer.
        loss: `bns_divergence`, `moment_mse`, or another that treats every channel by itself.
        summed: add up the channels of a layer, in place of their mean.
        options: handed to `loss`.
    Returns:
        a scalar, nats for the divergence. Book: {ref}`kw-jkl`.
    """
    weights = [1 / len(reference) if summed else 1 / (len(reference) * len(mu)) for mu, _ in reference]
    share = torch.cat([mu.new_full((len(mu),), weight) for weight, (mu, _) in zip(weights, reference)])
    return loss(*side_by_side(measured, reference), **options) @ share


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
