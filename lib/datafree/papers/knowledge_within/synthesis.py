"""The Knowledge Within (Haroush, Hubara, Hoffer, Soudry, 2020), section 3: images from BatchNorm statistics.

Section 3.1 Gaussian, 3.2 Inception, 3.3 BNS, 3.4 BNS + I and Algorithm 1. The divergence (eq. 1) and its mean J_KL
(eqs. 2, 3) are in `datafree.core.batchnorm`, because FRanDI needs them too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ... import files
from ...config import Precision, Strict
from ...core import batchnorm
from ...core.image_optimization import optimize_images
from ...core.metrics import count_classes
from ...core.optimization import FitConfig
from ...core.precision import uses_bf16
from ...data.images import ImageSet, generated
from ...errors import DataFreeError
from ...networks.blocks import normalization
from ...networks.weights import state_hash

Scheme = Literal["gaussian", "inception", "bns", "bns_inception"]
SCHEMES: dict[str, str] = {"gaussian": "G", "inception": "I", "bns": "BNS", "bns_inception": "BNS + I"}
"""The four generators and the paper's names for them."""


class SynthesisConfig(Strict):
    """Settings of Algorithm 1. 'Not given' marks values that the paper leaves out; ours are said to be ours."""

    scheme: Scheme = Field("bns", description="which terms of the loss are optimised (sections 3.1 to 3.4)")
    batch: int = Field(128, ge=1, description="images optimised together (section 4.3: 128)")
    steps: int = Field(500, ge=1, description="budget of Algorithm 1; 1000 in section 4.3, otherwise not given")
    rate: float = Field(0.1, gt=0, description="Adam's first learning rate, in units of [0, 1] images; not given")
    cosine: bool = Field(True, description="let the rate fall to zero along a cosine; not given")
    copies: int = Field(4, ge=1, le=64, description="N, augmented copies of each image in a forward pass (section 4.1)")
    augment: bool = Field(True, description="draw cutout, crop-resize or flip for each copy (section 4.1)")
    alpha: float = Field(1.0, ge=0, description="weight of J_KL; not given")
    beta: float = Field(0.1, ge=0, description="weight of the class term; not given (0.001 in T5's caption may be it)")
    gamma: float = Field(1.0, ge=0, description="weight of the smoothness; not given")
    temperature: float = Field(100.0, gt=0, description="scale inside the class term's exponential (section 4.1)")
    kernel: int = Field(5, ge=3, le=31, description="side of the smoothing kernel in pixels (T5: 5)")
    sigma: float = Field(1.0, gt=0, description="width of the smoothing kernel in pixels (T5: 0.375 and 1.0)")
    divergence: Literal["kl", "kl_reverse", "kl_sum", "mse"] = Field(
        "kl", description="eq. 1, its other direction (eq. 2), summed over channels, or section 3.3's moments"
    )
    input_pair: bool = Field(
        True, description="treat the input normalisation as one more pair of statistics (section 3.3)"
    )
    precision: Precision = Field("auto", description="of the network's passes; auto: bf16 where the CPU has it")
    seed: int = Field(0, ge=0)

    @property
    def weights(self) -> tuple[float, float, float]:
        """(alpha, beta, gamma) with zeros where the scheme leaves a term out."""
        uses = {"gaussian": (0, 0, 0), "inception": (0, 1, 1), "bns": (1, 0, 0), "bns_inception": (1, 1, 1)}[
            self.scheme
        ]
        return tuple(w * u for w, u in zip((self.alpha, self.beta, self.gamma), uses))


DIVERGENCES = {
    "kl": batchnorm.bns_divergence,
    "kl_reverse": partial(batchnorm.bns_divergence, reverse=True),
    "kl_sum": batchnorm.bns_divergence,
    "mse": batchnorm.moment_mse,
}
"""The readings of section 3.3, as losses of a channel; 'kl_sum' adds up a layer's channels, the others average them."""


@dataclass
class Synthesis:
    """Images in [0, 1], the classes aimed at, and every loss at every step, optimised or only watched."""

    images: torch.Tensor
    targets: torch.Tensor
    history: dict[str, list[float]] = field(default_factory=dict)


def gaussian_images(model: nn.Module, count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    r"""Normal inputs with the moments of the original ones (The Knowledge Within, section 3.1).

    .. math:: x_c \sim \mathcal N(\mathrm{mean}_c, \mathrm{std}_c^2)

    Args:
        model: its first layer carries the published normalisation.
        count, size: [count, 3, size, size] is returned, not clipped: clipping would change the moments.
    """
    mean, std = normalization(model)
    noise = torch.randn(count, len(mean), size, size, generator=generator, device=generator.device).to(mean)
    return (mean.view(1, -1, 1, 1) + std.view(1, -1, 1, 1) * noise).contiguous(memory_format=torch.channels_last)


def gaussian_kernel(size: int, sigma: float) -> torch.Tensor:
    """Separable Gaussian weights [size, size] that sum to one; sigma in pixels."""
    x = torch.arange(size, device="cpu") - (size - 1) / 2
    g = torch.exp(-0.5 * (x / sigma) ** 2)
    return torch.outer(g, g) / g.sum() ** 2


def smoothness(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    r"""Mean squared difference of an image and its blurred copy (The Knowledge Within, section 3.2).

    .. math:: \mathcal L_{\mathrm{smooth}} = \mathrm{MSE}(X, G_\sigma * X)

    Args:
        images: [N, C, H, W] in [0, 1].
        kernel: [k, k] from `gaussian_kernel`; borders are reflected.
    Returns:
        a scalar, in squared units of the images. Book: {ref}`kw-smoothness`.
    """
    channels, pad = images.shape[1], kernel.shape[0] // 2
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    blurred = F.conv2d(padded, kernel.expand(channels, 1, *kernel.shape), groups=channels)
    return F.mse_loss(images, blurred)


def class_term(logits: torch.Tensor, targets: torch.Tensor, temperature: float = 100.0) -> torch.Tensor:
    r"""Exponential class loss: it fades as the target's logit grows (The Knowledge Within, section 3.2).

    .. math:: \mathcal L_{\mathrm{class}} = \frac1N\sum_i \exp\bigl(-z_{i, t_i} / T\bigr)

    Args:
        logits: [N, K], outputs of the final linear layer.
        targets: [N], classes to show.
        temperature: T; 100 in section 4.1.
    Returns:
        a scalar without unit. Book: {ref}`kw-class`.
    """
    return torch.exp(-logits.gather(1, targets[:, None]) / temperature).mean()


def blur_matrix(kernel: torch.Tensor, side: int) -> torch.Tensor:
    """The blur of `smoothness` along one axis as a matrix [side, side]: its kernel is a product, G X = A X A^T.

    Args:
        kernel: [k, k] from `gaussian_kernel`.
    """
    pad = kernel.shape[0] // 2
    identity = torch.eye(side, dtype=kernel.dtype, device=kernel.device)
    padded = F.pad(identity[None], (pad, pad), mode="reflect")[0]  # [pixel, place where it is seen]
    return (padded.unfold(1, kernel.shape[0], 1) @ kernel.sum(0)).T


def fast_smoothness(images: torch.Tensor, blur: torch.Tensor) -> torch.Tensor:
    """`smoothness` of square images, by two matrix products; `blur` is the transposed `blur_matrix`."""
    return F.mse_loss(images, blur.T @ images @ blur)


def augment_in_batch(images: torch.Tensor, copies: int, fill: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Differentiable copies: each draws cutout, crop-resize or flip (The Knowledge Within, section 4.1).

    Args:
        images: [B, C, H, W].
        copies: N; the result is [N B, C, H, W], copy by copy, so that targets repeat as `targets.repeat(N)`.
        fill: [1, C, 1, 1], what cutout leaves behind: the mean of the input normalisation.
        generator: of the processor, so that a seed means the same on every device.
    """
    b, _, h, w = images.shape
    n, here = copies * b, generator.device
    kind = torch.randint(0, 3, (n,), generator=generator, device=here)  # 0 cutout, 1 crop and resize, 2 flip
    crop = 0.7 + 0.3 * torch.rand(n, generator=generator, device=here)
    shift = (1 - crop)[:, None] * (2 * torch.rand(n, 2, generator=generator, device=here) - 1)
    hole = cutout_mask(n, h, w, generator)
    cut, cropped, flipped = ((kind == k).nonzero().flatten() for k in range(3))
    order = torch.cat((cut, cropped, flipped))
    x = images[(order % b).to(images.device)].split([len(cut), len(cropped), len(flipped)])
    keep = (~hole[cut]).to(images)
    parts = [
        x[0] * keep + fill * (1 - keep),
        crop_and_resize(x[1], crop[cropped].to(images), shift[cropped].to(images)),
        x[2].flip(3),
    ]
    return torch.cat(parts)[order.argsort().to(images.device)].contiguous(memory_format=torch.channels_last)


def crop_and_resize(images: torch.Tensor, crop: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The part of each image [N, C, H, W] with sides `crop` [N] times as long, moved by `shift` [N, 2], at full size."""
    theta = torch.zeros(len(crop), 2, 3, dtype=crop.dtype, device=crop.device)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = crop, crop, shift  # an affine map of coordinates an image
    grid = F.affine_grid(theta, [len(crop), 1, *images.shape[2:]], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def cutout_mask(n: int, h: int, w: int, generator: torch.Generator) -> torch.Tensor:
    """True inside a square of a quarter of the side at a random place: [n, 1, h, w]."""
    side, here = max(1, min(h, w) // 4), generator.device
    top = torch.randint(0, h - side + 1, (n, 1), generator=generator, device=here)
    left = torch.randint(0, w - side + 1, (n, 1), generator=generator, device=here)
    rows, columns = torch.arange(h, device=here)[None], torch.arange(w, device=here)[None]
    inside = ((rows >= top) & (rows < top + side))[:, :, None] & ((columns >= left) & (columns < left + side))[:, None]
    return inside[:, None]


def input_moments(images: torch.Tensor) -> batchnorm.Moments:
    """Mean and variance [C] over a batch [N, C, H, W]: the input's side of the extra pair of section 3.3."""
    mean = images.mean((0, 2, 3))
    return batchnorm.Moments(mean, (images - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3)))


class Algorithm1:
    """Algorithm 1 of The Knowledge Within: what `optimize_images` repeats, piece by piece, and the run of it."""

    def __init__(self, model: nn.Module, config: SynthesisConfig, size: int = 32, classes: int | None = None):
        self.model, self.config = model, config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.mean, self.std = normalization(model)
        self.images = gaussian_images(model, config.batch, size, self.generator).clamp_(0, 1).requires_grad_()
        classes = classes or count_classes(model, tuple(self.images.shape[1:]))
        self.targets = torch.randint(0, classes, (config.batch,), generator=self.generator, device="cpu").to(
            self.mean.device
        )
        # the published input normalisation counts as one more pair of statistics (section 3.3)
        pair = batchnorm.Moments(self.mean, self.std**2)
        self.reference = batchnorm.stored(model) + [pair] * config.input_pair
        self.blur = blur_matrix(gaussian_kernel(config.kernel, config.sigma), size).T.to(self.images.device)
        self.history: dict[str, list[float]] = {"J_KL": [], "class_term": [], "smoothness": []}

    @torch.no_grad()
    def clip(self) -> None:
        """Line 7: the images stay in [0, 1]."""
        self.images.clamp_(0, 1)

    def copies(self, images: torch.Tensor) -> torch.Tensor:
        """What the network sees: the images, or augmented copies of them; a temporary, never written back."""
        if not self.config.augment:
            return images.repeat(self.config.copies, 1, 1, 1)
        return augment_in_batch(images, self.config.copies, self.mean.view(1, -1, 1, 1), self.generator)

    def loss(self, x: torch.Tensor, logits: torch.Tensor, moments: list[batchnorm.Moments]) -> torch.Tensor:
        """alpha J_KL + beta L_class + gamma L_smooth; a term of weight zero is only watched."""
        config = self.config
        measured = moments + [input_moments(x)] * config.input_pair
        terms = {
            "J_KL": self.divergence(measured),
            "class_term": class_term(logits.float(), self.targets.repeat(config.copies), config.temperature),
            "smoothness": fast_smoothness(x, self.blur),
        }
        for name, value in terms.items():
            self.history[name].append(value.item())
        return sum(weight * term for weight, term in zip(config.weights, terms.values()) if weight)

    def divergence(self, measured: list[batchnorm.Moments]) -> torch.Tensor:
        """J_KL, or what the settings put in its place."""
        kind = self.config.divergence
        return batchnorm.mean_divergence(measured, self.reference, DIVERGENCES[kind], summed=kind == "kl_sum")

    def plan(self) -> FitConfig:
        """Adam on the images, and its rate."""
        config, schedule = self.config, "cosine" if self.config.cosine else "constant"
        return FitConfig(
            steps=config.steps, rate=config.rate, optimizer="adam", momentum=0.5, beta2=0.9, warmup=0.0, schedule=schedule
        )  # fmt: skip

    def run(self, progress: bool = True, watch: Callable[[int], None] | None = None) -> Synthesis:
        """All steps; `watch` is called with the number of steps done, before each step, when the images are clipped."""

        def before(done: int) -> None:
            self.clip()
            if watch:
                watch(done)

        losses = optimize_images(
            self.model, self.images, self.loss, self.plan(), view=self.copies, bf16=uses_bf16(self.config.precision, self.mean.device),
            before=before, what=f"synthesis of {SCHEMES[self.config.scheme]} images", progress=progress,
        )  # fmt: skip
        self.clip()
        return Synthesis(self.images.detach(), self.targets, self.history | {"loss": losses})


def synthesize(
    model: nn.Module, config: SynthesisConfig, size: int = 32, classes: int | None = None, progress: bool = True
) -> Synthesis:
    """One batch of images by the scheme of `config` (The Knowledge Within, algorithm 1).

    Args:
        model: reference network with BatchNorm; never changed.
        size: height and width of the images. classes: to draw targets from; default: all outputs of the network.
    """
    if config.scheme == "gaussian":
        generator = torch.Generator().manual_seed(config.seed)
        images = gaussian_images(model, config.batch, size, generator)
        return Synthesis(images, torch.full((config.batch,), -1, device=images.device))
    return Algorithm1(model, config, size, classes).run(progress)


def snapshots(
    model: nn.Module, config: SynthesisConfig, moments: list[int], size: int = 32, classes: int | None = None
) -> dict[int, torch.Tensor]:
    """Images as they are after each of the given numbers of steps of one run (The Knowledge Within, figure 2b).

    Args:
        moments: numbers of steps, from 0 to config.steps, in rising order.
    """
    if not all(0 <= moment <= config.steps for moment in moments):
        raise DataFreeError(f"images cannot be caught at {moments} of {config.steps} steps; give numbers up to that.")
    work, kept = Algorithm1(model, config, size, classes), {}

    def watch(done: int) -> None:
        if done in moments:
            kept[done] = work.images.detach().clone()

    work.run(progress=False, watch=watch)
    watch(config.steps)
    return kept


def image_set(
    model: nn.Module,
    config: SynthesisConfig,
    count: int,
    path: Path | None = None,
    size: int = 32,
    classes: int | None = None,
) -> ImageSet:
    """`count` images, batch after batch with seeds config.seed * 1000 + k; goes on where `path` was left.

    Args:
        path: a .safetensors file, read if it was made with the same model and settings and completed if it is short.
    """
    made, labels = _read_progress(model, config, path) if path else ([], [])
    classes = classes or count_classes(model, (len(normalization(model)[0]), size, size))
    while sum(map(len, made)) < count:
        part = config.model_copy(update={"seed": config.seed * 1000 + len(made)})
        result = synthesize(model, part, size, classes)
        made.append(result.images)
        labels.append(result.targets)
        if path:
            _write_progress(model, config, made, labels, path)
    return generated(torch.cat(made)[:count], SCHEMES[config.scheme], torch.cat(labels)[:count], classes)


def _fingerprint(model: nn.Module, config: SynthesisConfig) -> dict[str, str]:
    return {"config": config.model_dump_json(), "model": state_hash(model)}


def _write_progress(model, config, made, labels, path: Path) -> None:
    tensors = {"images": torch.cat(made).contiguous(), "labels": torch.cat(labels)}
    files.write_atomically(path, lambda p: save_file(tensors, p, metadata=_fingerprint(model, config)))


def _read_progress(model, config, path: Path) -> tuple[list, list]:
    if not Path(path).is_file():
        return [], []
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != _fingerprint(model, config):
                return [], []
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except Exception as error:
        raise DataFreeError(
            f"generated images '{path}' cannot be read ({error}); delete the file and run again."
        ) from None
    place = normalization(model)[0].device
    images, labels = images.to(place, memory_format=torch.channels_last), labels.to(place)
    return list(images.split(config.batch)), list(labels.split(config.batch))
