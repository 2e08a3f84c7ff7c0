"""One pass of synthetic images through a damaged network: each layer is solved for, and damaged, when they arrive there.

student = quantized.prepare(net, 4, 4)          what the student is made of says what the damage is:
student = Factorizer(net).network(ranks)        levels, two thin convolutions,
student, kept = thinned(net, images, 0.5)       or fewer channels
OnePass(student, net, images).run()
"""

from __future__ import annotations

import copy

import torch
from pydantic import Field
from torch import nn

from ..config import Strict
from ..core import batchnorm, observers, pruning, quantized, quantizer
from ..core.graph import inputs_of, trace
from ..core.hooks import evaluating, input_hooks
from ..data.images import ImageSet
from ..papers.frandi import factorization
from ..papers.udfc import moment_matching
from . import damage, least_squares

Kept = dict[str, torch.Tensor]
"""Name of a layer or of a BatchNorm -> indices of its channels that stayed; all where it is not named."""


class PassConfig(Strict):
    """What the pass does at each layer; the switches are there to take it apart."""

    ridge: float = Field(1.0, ge=0, description="lambda of the refit, in mean variances of what arrives")
    damping: float = Field(1.0, gt=0, description="the same in the covariance that measures damage")
    refit: bool = Field(True, description="solve for the weight before it is damaged; else it stays as it is")
    least: bool = Field(True, description="damage what the output minds least; else nearest levels, and the plain SVD")
    align: bool = Field(True, description="move BatchNorm's statistics by what has changed; else they stay")


class OnePass:
    """Compress `student` in place, layer by layer, on images that pass once.

    Args:
        student: with the structure that it shall have, and the weights of `teacher` in it.
        kept: the channels of the teacher that the student has, where it has not all.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, images: ImageSet, config: PassConfig | None = None,
        kept: Kept | None = None,
    ):  # fmt: skip
        self.student, self.teacher, self.images = student, teacher, images
        self.config, self.kept = config or PassConfig(), kept or {}
        self.answers: dict[str, torch.Tensor] = {}
        self.before = dict(zip((name for name, _ in batchnorm.layers(teacher)), batchnorm.measure(teacher, images)))

    @torch.no_grad()
    def run(self) -> nn.Module:
        """The student, compressed."""
        layers = [layer.name for layer in trace(self.teacher).layers]
        with input_hooks(self.teacher, layers, self.listen), evaluating(self.teacher):
            self.teacher(self.images.floats())
        norms = self.before if self.config.align else ()
        with (
            input_hooks(self.student, layers, self.arrive),
            input_hooks(self.student, norms, self.normalize),
            evaluating(self.student),
        ):
            self.student(self.images.floats())
        return self.student

    def listen(self, name: str, x: torch.Tensor) -> None:
        """Keep what a layer of the teacher answers: [groups, samples, outputs]."""
        answer, keep = least_squares.wanted(x, self.teacher.get_submodule(name)), self.kept.get(name)
        if keep is not None:  # a depthwise layer has a group a channel
            answer = answer[:, :, keep] if len(answer) == 1 else answer[keep]
        self.answers[name] = answer

    def arrive(self, name: str, x: torch.Tensor) -> None:
        """Before a layer of the student runs: solve for its weight, damage it, and put it there."""
        module = self.student.get_submodule(name)
        if isinstance(module, quantized.QuantizedLayer):
            x = levels(module, x)
        # two thin convolutions begin with the whole weight of the one that they stand for
        core = (
            self.teacher.get_submodule(name) if isinstance(module, nn.Sequential) else getattr(module, "core", module)
        )
        rows = least_squares.patches(x, core)
        prior = core.weight.detach().flatten(1).unflatten(0, (len(rows), -1))
        solved = [self.solved(*group) for group in zip(rows, self.answers.pop(name), prior)]
        weights, moments = zip(*solved)
        if isinstance(module, quantized.QuantizedLayer):
            weights = self.round(module, weights, moments)
        if isinstance(module, nn.Sequential):
            self.split(module, core, weights[0], moments[0])
        else:
            core.weight.data = torch.cat(weights).view_as(core.weight)
            if core.bias is not None:
                core.bias.data += torch.cat(
                    [m.mean - w.double() @ m.mean_hat for w, m in zip(weights, moments)]
                ).float()

    def solved(self, rows: torch.Tensor, answer: torch.Tensor, prior: torch.Tensor):
        """A group's weight [O, n], and the moments of what arrives and of what is wanted."""
        if self.config.refit:
            return least_squares.refit(rows, answer, prior, self.config.ridge)
        return prior, moment_matching.of_samples(rows, answer)

    def round(self, layer: quantized.QuantizedLayer, weights, moments) -> list[torch.Tensor]:
        """The groups' weights on levels; the layer holds the ranges that these lie in."""
        if not self.config.least:
            return [quantizer.quantize_weight(weight, layer.weight_bits) for weight in weights]
        found = [
            damage.round_least(weight, damage.regularized(m.cov_hat, self.config.damping), layer.weight_bits)
            for weight, m in zip(weights, moments)
        ]
        ends = (torch.cat(end) for end in zip(*(one.limits for one in found)))
        layer.weight_limits = tuple(end.view(-1, *[1] * (layer.core.weight.ndim - 1)) for end in ends)
        return [one.weight for one in found]

    def split(self, thin: nn.Sequential, conv: nn.Conv2d, weight: torch.Tensor, moments) -> None:
        """Two thin convolutions in place of one with this weight, of the rank that they have."""
        whole = copy.deepcopy(conv)
        whole.weight.data = weight.view_as(conv.weight)
        cov = damage.regularized(damage.column_cov(moments.cov_hat, conv.weight.shape), self.config.damping)
        parts = damage.decompose_least(whole.weight, cov) if self.config.least else None
        factors = factorization.spatial_svd(whole, thin[0].out_channels, parts)
        thin.load_state_dict(factors.state_dict())

    def normalize(self, name: str, z: torch.Tensor) -> None:
        """Before a BatchNorm of the student runs: move its statistics by what became of its input."""
        keep = self.kept.get(name)
        before = self.before[name] if keep is None else [value[keep] for value in self.before[name]]
        batchnorm.align(self.student.get_submodule(name), z, before)


def levels(layer: quantized.QuantizedLayer, x: torch.Tensor) -> torch.Tensor:
    """What the layer will multiply: x on levels, whose range is measured on x itself."""
    observer = observers.MSEObserver(layer.act_bits)
    observer.observe(x)
    layer.set_range(*observer.range())
    return layer.quantize_input(x)


@torch.no_grad()
def thinned(net: nn.Module, images: ImageSet, ratio: float, damping: float = 1.0) -> tuple[nn.Module, Kept]:
    """A copy with fewer channels in every pair of layers: those that the next layer minds least go, one by one (OBS).

    Args:
        ratio: share of each pair's channels that goes. damping: in mean variances of the channels.
    Returns:
        the network, not repaired, and what it kept.
    """
    graph, student, kept = trace(net), copy.deepcopy(net).eval(), {}
    pairs = [pair for pair in pruning.prunable(graph) if pair.acts]
    seen = inputs_of(net, [pair.last for pair in pairs], images.floats())
    for pair in pairs:
        rows, weight = moment_matching.sampled(seen[pair.last]), student.get_submodule(pair.last).weight
        cov = moment_matching.of_samples(rows, rows).cov
        taps = weight.view(len(weight), -1, pair.positions) if weight.ndim == 2 else weight.flatten(2)
        count = pruning.kept_count(len(cov), ratio)
        ridge = damping * cov.diagonal().mean().item()
        keep = moment_matching.kept_by_obs(cov, taps.transpose(0, 1).flatten(1), count, ridge)
        pruning.remove(student, graph, pair, keep)
        norms = (graph.layer(name).norm for name in (pair.first, *pair.middle))
        kept |= dict.fromkeys((pair.first, *pair.middle, *filter(None, norms)), keep)
    return student, kept
