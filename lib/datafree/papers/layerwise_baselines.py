"""Layer-Wise Data-Free CNN Compression, section IV-A: what the method is compared with, all on its own quantiser.

Each function takes a trained network and a `LayerWise` configuration, of which it reads bits, samples, grid, seed and
`first`, and returns a network of `LevelLayer`s. The methods themselves are in `datafree.dfq`, `adaround`, `zeroq` and
`generative`; the paper gives none of their settings.
"""

from __future__ import annotations

import torch
from torch import nn

from .. import adaround, data, generative, levels, zeroq
from .. import dfq as tools
from ..distill import FitConfig
from ..graph import fold_all, trace
from . import layerwise as lw
from . import layerwise_quantization as lq
from .layerwise_quantization import LayerWise

NOTHING = {"equalize": False, "absorb": False, "correct": False, "ranges": "extremes"}
"""Rounding alone: weights and imitated inputs between their extremes."""


def nothing(model: nn.Module, config: LayerWise) -> nn.Module:
    """Rounded and no more."""
    return lq.compress(model, config.model_copy(update=NOTHING))[0]


def dfq(model: nn.Module, config: LayerWise) -> nn.Module:
    """Data-Free Quantization (Nagel et al., 2019): equalisation where a factor passes, absorption, correction, six deviations.

    A pair with another activation than ReLU between is left as it is, because DFQ has no buffers.
    """
    config = config.model_copy(update={"ranges": "six_sigma"})
    graph = trace(model)
    found = lw.equalize(model, lw.Equalization(buffers="never"), graph)
    moments = lw.tracked_moments(lw.stored_moments(model, graph), graph, found)
    ready, moments = tools.absorb_bias(found.model, graph, moments)
    student = lq.with_levels(ready, graph, config)
    lq.correct_biases(student, ready, graph, moments)
    lq.set_ranges(student, graph, moments, config)
    return student


def ours(model: nn.Module, config: LayerWise) -> nn.Module:
    """The paper's method."""
    return lq.compress(model, config)[0]


def per_channel(model: nn.Module, config: LayerWise, tensorwise: nn.Module | None = None) -> nn.Module:
    """The paper's method with a weight range for each output channel: what a range a tensor cannot exceed by much.

    tensorwise: the result of `ours` at the same settings, if at hand: its ranges of inputs are the same and are taken over.
    """
    config = config.model_copy(update={"per_channel": True})
    if tensorwise is None:
        return lq.compress(model, config)[0]
    graph = trace(model)
    ready, moments = lq.prepare(model, graph, config)
    student = lq.with_levels(ready, graph, config)
    lq.correct_biases(student, ready, graph, moments)
    ends = {name: value for name, value in tensorwise.named_buffers() if name.endswith(("low", "high"))}
    student.load_state_dict(ends, strict=False)
    return student


def adaround_imitated(model: nn.Module, config: LayerWise, rounding: adaround.AdaRoundConfig) -> nn.Module:
    """AdaRound on imitated inputs; ranges of inputs are the extremes of these. Neither equalised nor corrected."""
    graph, student = trace(model), nothing(model, config)
    moments = lw.stored_moments(model, graph)
    generator = torch.Generator().manual_seed(config.seed)

    def draw(name: str, size: tuple[int, int]) -> torch.Tensor:
        return lw.layer_input(graph, name, moments, (config.samples, *size), generator)

    adaround.round_network(student, fold_all(model, graph), draw, rounding)
    return student


def zeroq_ranges(model: nn.Module, config: LayerWise, images: data.ImageSet) -> nn.Module:
    """ZeroQ: nearest rounding, and ranges of inputs from the extremes on its distilled images."""
    graph, student = trace(model), nothing(model, config)
    zeroq.set_ranges(student, fold_all(model, graph), images)
    return student


def _learning(model: nn.Module, config: LayerWise) -> nn.Module:
    graph = trace(model)
    return levels.learning(fold_all(model, graph), graph, config.weight_bits, config.act_bits)


def deep_inversion(
    model: nn.Module, config: LayerWise, images: data.ImageSet, training: FitConfig, batch: int = 32
) -> nn.Module:
    """Deep Inversion: the quantised network, trained on inverted images towards the float one; as the last step left it."""
    student = _learning(model, config)
    generative.distill_inverted(student, model, images, training, batch=batch, seed=config.seed)
    return levels.finished(student)


def adversarial(
    model: nn.Module, config: LayerWise, game: generative.AdversarialConfig, shape: tuple[int, int, int]
) -> nn.Module:
    """Adversarial distillation of the quantised network; as the last step left it."""
    student = _learning(model, config)
    generative.distill_adversarially(student, model, game, shape)
    return levels.finished(student)
