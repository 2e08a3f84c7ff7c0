"""Layer-Wise Data-Free CNN Compression, section III-D: learned soft thresholds, one a layer, without data.

Eqs. 15 and 16, and the budget of eq. 17 that it is compared with. Equalisation and imitated inputs are in `layerwise`,
masks by magnitude in `datafree.core.pruning`.
"""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call

from ...baselines import dfq
from ...config import Strict
from ...core import pruning
from ...core.batchnorm import NamedMoments
from ...core.distillation import train_student
from ...core.graph import Feed, Graph, fold_all, put_module, trace
from ...core.optimization import FitConfig, rate_factor
from ...core.register import Result, method
from ...errors import DataFreeError
from . import closed_form, equalization, generated_inputs

STANDARD = Feed("input", "input")
"""Stands for whatever feeds a layer where its input is to be N(0, 1)."""


class LayerWisePruning(Strict):
    """Settings of pruning layer by layer. 'Not given' marks values that the paper leaves out."""

    sparsity: float = Field(
        0.5, ge=0, lt=1, description="share of the weights that lie below the threshold at the start; it sets s_0"
    )
    start: float | None = Field(None, description="s_0 of all layers, in place of a sparsity (below zero; not given)")
    grown: bool = Field(
        True, description="weights above the first threshold start larger by it, as if s had risen slowly (not given)"
    )
    decay: float = Field(1.55e-5, ge=0, description="lambda on s (section IV-B)")
    decay_form: Literal["coupled", "decoupled"] = Field(
        "coupled", description="part of the gradient that Adam sees, or apart from it (not given)"
    )
    decay_weights: bool = Field(False, description="lambda on the weights too (not given)")
    steps: int = Field(500, ge=1, description="of Adam (section IV: 100,000, and a few hundred suffice)")
    rate: float = Field(1e-3, gt=0, description="first rate, with a cosine to zero (section IV)")
    inputs: Literal["drawn", "expected"] = Field(
        "drawn", description="a batch of imitated inputs a step, or the mean over all of them in closed form (ours)"
    )
    batch: int = Field(128, ge=1, description="imitated inputs a step (section IV)")
    size: int = Field(4, ge=1, description="height and width of imitated inputs (not given)")
    source: Literal["batchnorm", "standard"] = Field("batchnorm", description="section III-B, or N(0, 1) (ours-S)")
    activation: bool = Field(False, description="apply f_j in eq. 12; section III-D leaves it out")
    equalize: bool = Field(True, description="AFCLE first (section III-A); False with N(0, 1): ours-SE")
    seed: int = Field(0, ge=0)


# Eqs. 15 to 17 ------------------------------------------------------------------------------------------------------


def soft_threshold(weight: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    r"""Weights drawn towards zero by a learned threshold (Layer-Wise Data-Free CNN Compression, eq. 15).

    .. math:: W_s = \mathrm{sign}(W)\, \mathrm{ReLU}\bigl(|W| - \mathrm{sigmoid}(s)\bigr)

    Args:
        weight: any shape; s: a scalar, one for each layer.
    Returns:
        the shape of `weight`; zero exactly where the magnitude is at most sigmoid(s). Book: {ref}`lw-str`.
    """
    return weight.sign() * (weight.abs() - torch.sigmoid(s)).relu()


def layer_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Distance of one layer's outputs on the same input (Layer-Wise Data-Free CNN Compression, eq. 16).

    .. math:: \mathcal L_i = \mathrm{MSE}\bigl(L_i^{\text{student}}(x),\, L_i^{\text{teacher}}(x)\bigr)

    Args:
        student, teacher: [N, O, ...], both from one imitated x.
    Returns:
        a scalar in squared units of the output. Book: {ref}`lw-layer-loss`.
    """
    return (student - teacher).square().mean()


def expected_layer_loss(error: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    r"""Eq. 16 averaged over all imitated inputs, away from borders; in closed form, which is ours.

    .. math:: \mathrm E\,\mathcal L_i = \frac1O \sum_o \Bigl[\sum_k \sigma_k^2 d_{ok}^2
              + \bigl(\sum_k \mu_k d_{ok}\bigr)^2\Bigr]

    It holds because imitated values are independent of each other.

    Args:
        error: d [G, O/G, K], student's minus teacher's weight, group by group.
        mean, variance: [G, K] of the values that a row of the weight meets. Book: {ref}`lw-expected`.
    """
    scattered = torch.bmm(error.square(), variance.unsqueeze(2))
    shifted = torch.bmm(error, mean.unsqueeze(2)).square()
    return (scattered + shifted).mean()


def erk_quotient(shape: Iterable[int]) -> float:
    r"""How dense a layer should be, up to a factor common to all (Layer-Wise Data-Free CNN Compression, eq. 17).

    .. math:: q = \frac{c_o + c_i + k_h + k_w}{c_o\, c_i\, k_h\, k_w}

    Args:
        shape: of the weight, [O, I, k_h, k_w], or [O, I] of a linear layer.

    The paper calls it the pruned share; in the work that it cites it is the kept one. Book: {ref}`lw-erk`.
    """
    sides = tuple(shape)
    return sum(sides) / math.prod(sides)  # (c_o + c_i + k_h + k_w) / (c_o c_i k_h k_w)


def erk_densities(weights: dict[str, torch.Tensor], sparsity: float, literal: bool = False) -> dict[str, float]:
    r"""Share of the weights that each layer keeps (Layer-Wise Data-Free CNN Compression, eq. 17).

    .. math:: d_l = \min(1, \epsilon q_l), \qquad \sum_l n_l d_l = (1 - \text{sparsity}) \sum_l n_l

    Args:
        literal: take the quotient for the pruned share, as the text has it.

    Book: {ref}`lw-erk`.
    """
    quotients = {name: erk_quotient(w.shape) for name, w in weights.items()}
    sizes = {name: w.numel() for name, w in weights.items()}
    if literal:
        return {name: 1 - v for name, v in pruning.proportional_shares(quotients, sizes, sparsity).items()}
    return pruning.proportional_shares(quotients, sizes, 1 - sparsity)


# A student with thresholds ------------------------------------------------------------------------------------------


class ThresholdedLayer(nn.Module):
    """A layer whose weight passes a soft threshold; its bias is frozen (Layer-Wise Data-Free CNN Compression, section III-D).

    inner: the layer with W; s: a scalar.
    grown: weights above the threshold begin larger by it, so that W_s is the masked weight; else W is the weight.
    """

    def __init__(self, inner: nn.Conv2d | nn.Linear, start: float, grown: bool = True):
        super().__init__()
        self.inner, self.s = copy.deepcopy(inner), nn.Parameter(inner.weight.new_tensor(start))
        if grown:
            weight, threshold = self.inner.weight.detach(), torch.sigmoid(self.s.detach())
            weight += (weight.abs() > threshold) * weight.sign() * threshold
        self.inner.weight.requires_grad_(True)
        if self.inner.bias is not None:
            self.inner.bias.requires_grad_(False)

    @property
    def weight(self) -> torch.Tensor:
        """W_s."""
        return soft_threshold(self.inner.weight, self.s)

    def forward(self, x):
        return functional_call(self.inner, {"weight": self.weight}, (x,))

    @torch.no_grad()
    def plain(self) -> nn.Conv2d | nn.Linear:
        """A layer of the usual kind whose weight is W_s."""
        layer = copy.deepcopy(self.inner)
        layer.weight.copy_(self.weight)
        return layer.requires_grad_(True)


def _replace(model: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put make(layer) in the place of the layer `name`, inside its buffers where it has some."""
    if isinstance(model.get_submodule(name), equalization.BufferedLayer):
        name = f"{name}.inner"
    put_module(model, name, make(model.get_submodule(name)))


def inner_layer(model: nn.Module, name: str) -> nn.Module:
    module = model.get_submodule(name)
    return module.inner if isinstance(module, equalization.BufferedLayer) else module


def with_thresholds(model: nn.Module, graph: Graph, start: float, grown: bool = True) -> nn.Module:
    """A copy in which every layer is a `ThresholdedLayer` that starts at s_0 = `start`; all else is as it was."""
    student = copy.deepcopy(model)
    for layer in graph.layers:
        _replace(student, layer.name, lambda inner: ThresholdedLayer(inner, start, grown))
    return student


def without_thresholds(student: nn.Module, graph: Graph) -> nn.Module:
    """A copy whose layers are of the usual kind again; what lay below its threshold is zero."""
    plain = copy.deepcopy(student)
    for layer in graph.layers:
        _replace(plain, layer.name, lambda module: module.plain())
    return plain


def weights_of(model: nn.Module, graph: Graph) -> dict[str, torch.Tensor]:
    """Layer -> its weight (W_s where it has a threshold), detached."""
    return {layer.name: inner_layer(model, layer.name).weight.detach() for layer in graph.layers}


def start_for(weights: dict[str, torch.Tensor], sparsity: float) -> float:
    """The s_0, the same for all layers, at which that share of all weights lies below the threshold.

    With it the curve of figure 5 is traced; the paper does not say how it was. The final sparsity is near, not equal.
    """
    magnitudes = torch.cat([w.abs().flatten() for w in weights.values()])
    # sigmoid(s_0) is the quantile of all magnitudes
    threshold = magnitudes.kthvalue(max(1, math.ceil(sparsity * magnitudes.numel()))).values.double().item()
    if not 0 < threshold < 1:
        raise DataFreeError(
            f"a threshold of {threshold:.3g} would be needed for a sparsity of {sparsity}, and sigmoid(s) lies between "
            "0 and 1; choose another sparsity, or set start."
        )
    return math.log(threshold / (1 - threshold))


# What a layer learns from -------------------------------------------------------------------------------------------


class _Drawn:
    """A fresh batch of imitated inputs each time; the sequence depends on the seed and the layer's name alone."""

    def __init__(self, teacher: nn.Module, student: nn.Module, graph: Graph, name: str, moments: NamedMoments, config):
        self.teacher, self.student = teacher.get_submodule(name), student.get_submodule(name)
        self.graph, self.name, self.moments, self.config = graph, name, moments, config
        self.feed = _feed(graph, name, config)
        kernel = getattr(inner_layer(teacher, name), "kernel_size", (1, 1))  # no smaller, where padding is apart
        self.side = max(config.size, *kernel)
        self.generator = torch.Generator().manual_seed(zlib.crc32(f"{config.seed} {name}".encode()))

    def __call__(self) -> torch.Tensor:
        shape = (self.config.batch, self.side, self.side)
        with torch.no_grad():
            x = generated_inputs.layer_input(self.graph, self.name, self.moments, shape, self.generator, feed=self.feed)
            target = self.teacher(x)
        return layer_loss(self.student(x), target)


class _Expected:
    """The same in the mean over all inputs; buffers weigh the values that go in and those that come out."""

    def __init__(self, teacher: nn.Module, student: nn.Module, graph: Graph, name: str, moments: NamedMoments, config):
        self.student, self.weight = inner_layer(student, name), inner_layer(teacher, name).weight.detach()
        groups, rows, columns = equalization.blocks(teacher.get_submodule(name)).shape[:3]
        # taps: places of a kernel; entry and leave: what the layer's buffers multiply inputs and outputs with
        taps = self.weight[0, 0].numel() if self.weight.ndim > 2 else 1
        entry = getattr(teacher.get_submodule(name), "v_in", self.weight.new_ones(groups * columns))
        leave = getattr(teacher.get_submodule(name), "v_out", self.weight.new_ones(groups * rows))
        inputs = graph.layer(name).inputs
        mean, variance = dfq.gaussian(_feed(graph, name, config), moments, inputs)
        mean, variance = (v.repeat_interleave(inputs // len(v)) for v in (mean, variance))
        self.mean, self.variance = (
            v.view(groups, columns, 1).expand(-1, -1, taps).reshape(groups, -1) for v in (mean * entry, variance * entry**2)
        )  # fmt: skip
        self.shape = groups, rows, columns * taps
        self.leave = None if (leave == 1).all() else leave.view(groups, rows, 1)

    def rows(self) -> closed_form.Rows:
        """The same as lines, one for each row of the weight."""
        groups, rows, count = self.shape
        leave = self.weight.new_ones(groups * rows) if self.leave is None else self.leave.flatten()
        mean, variance = (v.unsqueeze(1).expand(self.shape).reshape(-1, count) for v in (self.mean, self.variance))
        return closed_form.Rows(self.weight.view(-1, count), mean, variance, leave.square() / len(leave))

    def __call__(self) -> torch.Tensor:
        error = (self.student.weight - self.weight).view(self.shape)
        return expected_layer_loss(error if self.leave is None else error * self.leave, self.mean, self.variance)


def _feed(graph: Graph, name: str, config: LayerWisePruning) -> Feed:
    if config.source == "standard":
        return STANDARD
    feed = graph.feeding(name)
    return feed if config.activation else generated_inputs.without_activation(feed)


Losses = dict[str, Callable[[], torch.Tensor]]
"""Layer -> a function that draws its loss."""


def layer_losses(
    teacher: nn.Module, student: nn.Module, graph: Graph, moments: NamedMoments, config: LayerWisePruning,
    names: Iterable[str] | None = None,
) -> Losses:  # fmt: skip
    """The loss of each layer, on imitated inputs of its own: none of them looks at another layer.

    Args:
        teacher: fused and equalised, or as it was trained. student: of `with_thresholds(teacher, ...)`.
        moments: those that belong to `teacher`.
        names: layers to prune, in any order; default: all.
    """
    make = _Drawn if config.inputs == "drawn" else _Expected
    chosen = [layer.name for layer in graph.layers] if names is None else [graph.layer(name).name for name in names]
    known = {} if config.source == "standard" else moments
    return {name: make(teacher, student, graph, name, known, config) for name in chosen}


def threshold_decay(student: nn.Module, strength: float) -> torch.Tensor:
    r"""Weight decay of the thresholds as a loss: its gradient is lambda s (Layer-Wise Data-Free CNN Compression, section III-D).

    .. math:: \frac\lambda2 \sum_i s_i^2

    From s_0 < 0 it pulls s up towards zero. Book: {ref}`lw-decay`.
    """
    thresholds = [module.s for module in student.modules() if isinstance(module, ThresholdedLayer)]
    return 0.5 * strength * torch.stack(thresholds).square().sum()


def train(
    student: nn.Module, losses: Losses, config: LayerWisePruning, watch: Callable[[int], None] | None = None,
    fast: bool = True,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Adam on the weights and thresholds of the layers in `losses`, all at once.

    Adam works value by value and no loss reads two layers, so this equals one run for each layer.

    Args:
        watch: called with the number of the step before every step.
        fast: expected losses by `closed_form` (the same numbers), not each by autograd.
    Returns:
        layer -> the loss of every step [steps].
    """
    layers = {name: inner_layer(student, name) for name in losses}
    chosen, seen = nn.ModuleList(layers.values()), []
    coupled = config.decay if config.decay_form == "coupled" else 0.0
    together = fast and all(isinstance(draw, _Expected) for draw in losses.values())
    parameters = closed_form.shared(chosen) if together else [p for m in chosen for p in (m.inner.weight, m.s)]
    known = closed_form.SumOfLosses([draw.rows() for draw in losses.values()]) if together else None

    def before(step: int) -> None:
        if watch:
            watch(step)
        if config.decay_form == "decoupled":  # s <- (1 - rate lambda) s, apart from Adam
            rate = config.rate * rate_factor(step, config.steps, 0.0)
            with torch.no_grad():
                for layer in chosen:
                    layer.s.mul_(1 - rate * config.decay)

    def loss() -> torch.Tensor:
        drawn = known(*parameters) if known else torch.stack([draw() for draw in losses.values()])
        seen.append(drawn.detach())
        decay = 0.5 * coupled * parameters[1].square().sum() if known else threshold_decay(chosen, coupled)
        return drawn.sum() + decay

    decay = config.decay if config.decay_weights else 0.0
    plan = FitConfig(steps=config.steps, rate=config.rate, optimizer="adam", momentum=0.9, decay=decay, warmup=0.0)
    train_student(chosen, loss, plan, parameters=parameters, watch=before, what="layer-wise pruning", progress=False)
    return dict(zip(losses, torch.stack(seen).unbind(1)))


def equalized(model: nn.Module, graph: Graph, config: LayerWisePruning) -> tuple[nn.Module, NamedMoments]:
    """Fusion, and equalisation if asked for: the teacher, and the moments that belong to it."""
    moments = generated_inputs.stored_moments(model, graph)
    if not config.equalize:
        return fold_all(model, graph), moments
    found = equalization.equalize(model, graph=graph)
    return found.model, generated_inputs.tracked_moments(moments, graph, found)


@method(
    "layer_wise_pruning",
    paper="Layer-Wise Data-Free CNN Compression",
    about="prune weights; thresholds learnt layer by layer",
    structure=fold_all,
    needs_batchnorm=True,
)
def compress(model: nn.Module, config: LayerWisePruning) -> Result:
    """Fuse, equalise, learn thresholds and weights layer by layer (Layer-Wise Data-Free CNN Compression, section III-D).

    Returns:
        the pruned network with buffers folded in, and a report with the sparsity of each layer.
    """
    graph, clock = trace(model), time.perf_counter()
    teacher, moments = equalized(model, graph, config)
    start = start_for(weights_of(teacher, graph), config.sparsity) if config.start is None else config.start
    student = with_thresholds(teacher, graph, start, config.grown)
    history = train(student, layer_losses(teacher, student, graph, moments, config), config)
    plain = without_thresholds(student, graph)
    weights = weights_of(plain, graph)
    report = {
        "start": start,
        "sparsity": pruning.sparsity(weights.values()),
        "layers": {name: pruning.sparsity([w]) for name, w in weights.items()},
        "thresholds": {name: inner_layer(student, name).s.item() for name in weights},
        "losses": {name: (values[0].item(), values[-1].item()) for name, values in history.items()},
        "method_seconds": time.perf_counter() - clock,
        "not_handled": graph.problems(),
    }
    return Result(equalization.fold_buffers(plain), report)
