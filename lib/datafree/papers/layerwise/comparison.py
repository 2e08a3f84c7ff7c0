"""Layer-Wise Data-Free CNN Compression, section IV-A: what the method is compared with, all on its own quantiser.

Each function takes a trained network and a `LayerWise` configuration, of which it reads bits, samples, grid, seed and
`first`, and returns a converted network. The methods themselves are in `datafree.baselines.dfq`, `adaround`, `zeroq` and
`generative`; the paper gives none of their settings.
"""

from __future__ import annotations

import torch
from torch import nn

from ...baselines import adaround, adversarial_distillation
from ...baselines import dfq as nagel
from ...baselines.deep_inversion import distill_inverted
from ...core import observers, quantized
from ...core.graph import fold_all, trace
from ...core.optimization import FitConfig
from ...data.images import ImageSet
from . import equalization, generated_inputs, quantization

NOTHING = {"equalize": False, "absorb": False, "correct": False, "ranges": "extremes"}
"""Rounding alone: weights and imitated inputs between their extremes."""


def nothing(model: nn.Module, config: quantization.LayerWise) -> nn.Module:
    """Rounded and no more."""
    return quantization.compress(model, config.model_copy(update=NOTHING))[0]


def dfq(model: nn.Module, config: quantization.LayerWise) -> nn.Module:
    """Data-Free Quantization (Nagel et al., 2019): equalisation where a factor passes, absorption, correction, six deviations.

    A pair with another activation than ReLU between is left as it is, because DFQ has no buffers.
    """
    config = config.model_copy(update={"ranges": "six_sigma"})
    graph = trace(model)
    found = equalization.equalize(model, equalization.Equalization(buffers="never"), graph)
    moments = generated_inputs.tracked_moments(generated_inputs.stored_moments(model, graph), graph, found)
    ready, moments = nagel.absorb_bias(found.model, graph, moments)
    student = quantization.rounded(ready, graph, config)
    nagel.correct_biases(student, ready, graph, moments)
    quantization.set_ranges(student, graph, moments, config)
    return student


def ours(model: nn.Module, config: quantization.LayerWise) -> nn.Module:
    """The paper's method."""
    return quantization.compress(model, config)[0]


def per_channel(model: nn.Module, config: quantization.LayerWise, tensorwise: nn.Module | None = None) -> nn.Module:
    """The paper's method with a weight range for each output channel: what a range a tensor cannot exceed by much.

    tensorwise: the result of `ours` at the same settings, if at hand: its ranges of inputs are the same and are taken over.
    """
    config = config.model_copy(update={"per_channel": True})
    if tensorwise is None:
        return quantization.compress(model, config)[0]
    ready, moments, graph = quantization.equalized(model, trace(model), config)
    student = quantization.rounded(ready, graph, config)
    nagel.correct_biases(student, ready, graph, moments)
    ends = {name: value for name, value in tensorwise.named_buffers() if name.endswith(("low", "high"))}
    student.load_state_dict(ends, strict=False)
    return student


def adaround_imitated(model: nn.Module, config: quantization.LayerWise, rounding: adaround.AdaRoundConfig) -> nn.Module:
    """AdaRound on imitated inputs; ranges of inputs are the extremes of these. Neither equalised nor corrected."""
    graph, student = trace(model), nothing(model, config)
    moments = generated_inputs.stored_moments(model, graph)
    generator = torch.Generator().manual_seed(config.seed)

    def draw(name: str, size: tuple[int, int]) -> torch.Tensor:
        return generated_inputs.layer_input(graph, name, moments, (config.samples, *size), generator)

    adaround.round_network(student, fold_all(model, graph), draw, rounding)
    return student


def zeroq_ranges(model: nn.Module, config: quantization.LayerWise, images: ImageSet) -> nn.Module:
    """ZeroQ: nearest rounding, and ranges of inputs from the extremes on its distilled images."""
    student = _prepared(model, config, per_channel=config.per_channel)
    quantized.calibrate(student, (x for x, _ in images.batches(16)), observers.MinMaxObserver)
    return quantized.convert(student, inplace=True)


def _prepared(model: nn.Module, config: quantization.LayerWise, **options) -> nn.Module:
    """The fused network, to be measured or trained, on the paper's quantiser."""
    graph = trace(model)
    names = [layer.name for layer in graph.layers]
    sums = config.sums == "rounded"
    return quantized.prepare(
        fold_all(model, graph),
        config.weight_bits,
        config.act_bits,
        zero_on_grid=False,
        names=names,
        sums=sums,
        **options,
    )


def _following(model: nn.Module, config: quantization.LayerWise) -> nn.Module:
    """To be trained: one range a weight, and ranges of inputs follow the batches."""
    return _prepared(model, config, per_channel=False, observer=observers.MovingAverageMinMaxObserver)


def deep_inversion(
    model: nn.Module, config: quantization.LayerWise, images: ImageSet, training: FitConfig, batch: int = 32
) -> nn.Module:
    """Deep Inversion: the quantised network, trained on inverted images towards the float one; as the last step left it."""
    student = _following(model, config)
    distill_inverted(student, model, images, training, batch=batch, seed=config.seed)
    return quantized.convert(student, inplace=True)


def adversarial(
    model: nn.Module,
    config: quantization.LayerWise,
    game: adversarial_distillation.AdversarialConfig,
    shape: tuple[int, int, int],
) -> nn.Module:
    """Adversarial distillation of the quantised network; as the last step left it."""
    student = _following(model, config)
    adversarial_distillation.distill_adversarially(student, model, game, shape)
    return quantized.convert(student, inplace=True)
