"""UDFC (Bai, Chen, Shen, Qian, Liu, 2023): prune and quantise a layer, repair it in the next one, in closed form.

Of the paper only abstract and introduction are public to us. The equations here are our own derivation from its stated
assumption; docstrings name the section in which the paper announces the step. Matching of moments, the baseline
Neuron Merging and the order of work are not the paper's either; see `datafree.moments` for the former.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import fx, nn

from .. import bn, moments, prune, quantize
from ..data import ImageSet
from ..errors import DataFreeError
from ..graph import Graph, Pair, trace
from ..params import Strict

__all__ = ["UDFC", "Folded", "closed_form", "compress", "folded", "loss", "neuron_merging", "reconstruct", "unified"]

ALPHA1, ALPHA2 = 0.01, 0.008
"""Weights of the BatchNorm and the activation residual, best in the paper as reported by a secondary source."""

THRESHOLD, LAM = 0.1, 0.85
"""Neuron Merging's smallest cosine and its weight of the cosine, from its authors' script for ResNet-56."""

Images = ImageSet | moments.Observed | None
Repair = Literal["none", "bias", "merging", "closed_form", "gaussian", "images"]
REPAIRS: dict[str, str] = {
    "none": "no repair",
    "bias": "bias only",
    "merging": "Neuron Merging",
    "closed_form": "closed form",
    "gaussian": "rectified Gaussians",
    "images": "images",
}
"""The ways to repair the next layer, with the names shown in figures."""


class UDFC(Strict):
    """What `datafree.compress` needs to know for this paper: how much goes, how it is chosen, how it is repaired."""

    prune_ratio: float = Field(
        0.3, ge=0, lt=1, description="share of the channels of every pair that goes (abstract: 0.3)"
    )
    weight_bits: int | None = Field(None, ge=2, le=16, description="width of all weights; None: float (abstract: 6)")
    per_channel: bool = Field(True, description="weight ranges per output channel; not given")
    criterion: Literal["l1", "l2", "residual"] = Field("l2", description="which channels go; not given. residual: ours")
    scope: Literal["layer", "global"] = Field("layer", description="ratio of each layer or of all; not given")
    repair: Repair = Field("closed_form", description="closed_form is the derivation; gaussian and images are ours")
    alpha1: float = Field(
        ALPHA1, ge=0, description="weight of the BatchNorm residual, as a secondary source reports it"
    )
    alpha2: float = Field(
        ALPHA2, ge=0, description="weight of the coefficients' norm, as a secondary source reports it"
    )
    threshold: float = Field(THRESHOLD, ge=-1, le=1, description="merging: smallest cosine that is merged")
    lam: float = Field(LAM, ge=0, le=1, description="merging: weight of the cosine against the bias term")
    ridge: float = Field(0.01, ge=0, description="gaussian, images: lambda, in mean variances; ours")
    rescale: bool = Field(True, description="gaussian, images: BatchNorm is told of the variance that is left; ours")


# Sections 3.2, 3.3 and 4 ------------------------------------------------------------------------------------------


class Folded(NamedTuple):
    """What the channels of a pair compute before their activation: B_i = <a_i, patch> + c_i.

    a: [d, O], one column a channel; c: [O].
    """

    a: torch.Tensor
    c: torch.Tensor


def folded(net: nn.Module, graph: Graph, pair: Pair) -> Folded:
    r"""Weights and BatchNorm of a channel as one vector and one constant (UDFC, section 3.2).

    .. math:: a_i = \frac{\gamma_i}{\sigma_i}\,\mathrm{vec}(W_i), \qquad c_i = \beta_i - \frac{\gamma_i \mu_i}{\sigma_i}

    A depthwise layer behind it carries the channel through: its filter multiplies as an outer product,
    as if there were no activation in between. Equation ours, in float64. Book: {ref}`ud-folded`.
    """
    a, c = _affine(net, graph, pair.first)
    for name in pair.middle:
        kernel, constant = _affine(net, graph, name)
        c = constant + kernel.sum(1) * c
        a = (a[:, :, None] * kernel[:, None, :]).flatten(1)
    return Folded(a.T, c)


def _affine(net: nn.Module, graph: Graph, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [O, d] and constants [O] of one layer with its BatchNorm, in float64."""
    layer, norm = net.get_submodule(name), graph.layer(name).norm
    weight = layer.weight.detach().flatten(1).double()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if norm is None:
        return weight, bias.double()
    scale, shift = (v.flatten().double() for v in bn._affine(net.get_submodule(norm)))
    return weight * scale[:, None], bias.double() * scale + shift


def reconstruct(weight: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    r"""Input channels of the next layer, rebuilt from what is left (UDFC, section 3.2).

    .. math:: \hat V_i = \sum_j s_{ij} V_j

    Args:
        weight: V [P, O, ...] of layer l + 1.
        coefficients: s [K, O]; row i is what kept channel i takes over from every channel j.
    Returns:
        [P, K, ...]. Equation ours. Book: {ref}`ud-reconstruction`.
    """
    mixed = torch.einsum("pot,ko->pkt", weight.double().flatten(2), coefficients.double())
    return mixed.reshape(len(weight), len(coefficients), *weight.shape[2:]).to(weight.dtype)


def loss(s, left: Folded, a, c, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> torch.Tensor:
    r"""What a combination of the channels that are left misses of a damaged one (UDFC, section 3.3).

    .. math:: \ell(s) = \|a_j - \hat A s\|^2 + \alpha_1 (c_j - \hat c^\top s)^2 + \alpha_2 \|s\|^2

    Args:
        s: [K]; left: A_hat [d, K] and c_hat [K]; a, c: a_j [d] and the number c_j.
    Returns:
        a scalar. Equation ours. Book: {ref}`ud-loss`.
    """
    return (a - left.a @ s).square().sum() + alpha1 * (c - left.c @ s) ** 2 + alpha2 * s.square().sum()


def closed_form(left: Folded, lost: Folded, alpha1: float = ALPHA1, alpha2: float = ALPHA2) -> torch.Tensor:
    r"""The minimiser of the loss for all damaged channels of a layer at once (UDFC, section 4).

    .. math:: s_j = \bigl(\hat A^\top \hat A + \alpha_1 \hat c \hat c^\top + \alpha_2 I\bigr)^{-1}
                    \bigl(\hat A^\top a_j + \alpha_1 c_j \hat c\bigr)

    One Cholesky factor serves every column of `lost`.

    Args:
        left: A_hat [d, K], c_hat [K]; lost: a_j [d, J], c_j [J].
    Returns:
        [K, J]. Equation ours. Book: {ref}`ud-closed-form`.
    Raises:
        DataFreeError: alpha2 is zero and the channels that are left depend on each other.
    """
    system = left.a.T @ left.a + alpha1 * torch.outer(left.c, left.c)
    system.diagonal().add_(alpha2)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        raise DataFreeError(
            f"the channels that are left depend on each other and alpha2 is {alpha2}; give alpha2 above zero."
        )
    return torch.cholesky_solve(left.a.T @ lost.a + alpha1 * torch.outer(left.c, lost.c), factor)


def unified(keep: torch.Tensor, solved: torch.Tensor, damaged: torch.Tensor) -> torch.Tensor:
    r"""Pruning, quantisation, or both, in one matrix of coefficients (UDFC, section 3.2).

    .. math:: s_{ij} = \delta_{ij} \text{ for an undamaged } j, \text{ the solution otherwise}

    Args:
        keep: [K], channels that stay; solved: [K, O]; damaged: [O], true or false. Pruned channels are always damaged.
    Returns:
        [K, O]. Equation ours. Book: {ref}`ud-unified`.
    """
    return torch.where(damaged, solved, identity(keep, solved.shape[1], solved.dtype))


def identity(keep: torch.Tensor, channels: int, dtype=torch.float64) -> torch.Tensor:
    """[K, O]: every channel that stays stands for itself, a pruned one is lost."""
    return torch.eye(channels, dtype=dtype)[keep]


# Baselines --------------------------------------------------------------------------------------------------------


def neuron_merging(
    weight: torch.Tensor, norm: nn.BatchNorm2d, keep: torch.Tensor, threshold: float = THRESHOLD, lam: float = LAM
) -> torch.Tensor:
    r"""Neuron Merging (Kim et al., 2020): a pruned channel goes to the one kept channel most like it.

    Likeness is lam (1 - cosine) + (1 - lam) b with b the distance of the BatchNorm constants, scaled to [0, 1] over the
    kept channels; the coefficient is the ratio of norms times the ratio of the BatchNorm scales, as in its authors'
    code. (There the running variance stands where the formula has the standard deviation, which is used here.)

    Args:
        weight: [O, ...]; norm: the BatchNorm behind it; keep: [K].
    Returns:
        [K, O]; a column of zeros where the best cosine is below `threshold`.
    """
    w = weight.detach().double().flatten(1)
    gamma, beta, mu, var = (v.detach().double() for v in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    sigma = (var + norm.eps).sqrt()
    length = w.norm(dim=1).clamp_min(torch.finfo(w.dtype).tiny)
    cosine = (w[keep] @ w.T) / torch.outer(length[keep], length)
    ratio = length[None] / length[keep][:, None]
    scale = ratio * (gamma / sigma)[keep][:, None] / (gamma / sigma)[None]
    bias = (gamma / sigma)[keep][:, None] * (ratio * (mu - sigma * beta / gamma)[None] - mu[keep][:, None]) + beta[
        keep
    ][:, None]
    bias = bias.abs() / scale
    bias = (bias - bias.amin(0)) / (bias.amax(0) - bias.amin(0)).clamp_min(torch.finfo(bias.dtype).tiny)
    best = (lam * (1 - cosine) + (1 - lam) * bias).argmin(0)
    columns = torch.arange(len(w))
    merged = torch.zeros_like(scale)
    merged[best, columns] = torch.where(cosine[best, columns] >= threshold, scale[best, columns], 0.0)
    return unified(keep, merged, ~torch.isin(columns, keep))


# The whole network ------------------------------------------------------------------------------------------------


@dataclass
class Damage:
    """What was done to the channels of a pair, until the next layer repairs it."""

    keep: torch.Tensor
    whole: Folded
    left: Folded
    coefficients: torch.Tensor | None = None
    moments: moments.Moments | None = None


class Compression:
    """One pass through a network: layer by layer, damage first, repair where the damage arrives.

    `arrive` is called for every layer in the order they run, with its input where there are images.
    """

    def __init__(self, model: nn.Module, config: UDFC, pool: Images = None, graph: Graph | None = None):
        self.config, self.graph = config, graph or trace(model)
        self.pairs = [pair for pair in prune.prunable(self.graph) if pair.acts]
        self._preflight(pool)
        self.net = copy.deepcopy(model).eval()
        self.first = {pair.first: pair for pair in self.pairs}
        self.last = {pair.last: pair for pair in self.pairs}
        self.middle = {name for pair in self.pairs for name in pair.middle}
        norm = "l2" if config.criterion == "residual" else config.criterion
        ranked = {name: prune.scores(self.net.get_submodule(name).weight, norm) for name in self.first}
        self.keep = prune.choose(ranked, config.prune_ratio, config.scope)
        self.kept_norm = {self.graph.layer(n).norm: p.first for p in self.pairs for n in (p.first, *p.middle)}
        self.damages: dict[str, Damage] = {}
        self.seen = moments.observe(model, list(self.last), pool) if isinstance(pool, ImageSet) else pool
        self.reference = self.seen.norms if self.seen and config.rescale else {}

    def _preflight(self, pool: Images) -> None:
        if not self.pairs:
            raise DataFreeError(f"{self.graph.network} has no two layers with only an activation between them.")
        if (self.config.repair == "images") != (pool is not None):
            raise DataFreeError(
                "repair='images' and images= belong together: give both, for instance with BNS images of "
                "datafree.papers.knowledge_within.image_set, or neither."
            )
        if isinstance(pool, moments.Observed) and {pair.last for pair in self.pairs} - set(pool.inputs):
            raise DataFreeError("the images were observed in another network; call udfc.observe with this one.")
        for pair in self.pairs:
            if self.config.repair in ("bias", "gaussian"):
                moments.check_rectified(self.graph, pair)
            if self.config.repair == "merging" and self.graph.layer(pair.first).norm is None:
                raise DataFreeError(f"'{pair.first}' has no BatchNorm, which repair='merging' needs; use closed_form.")

    def arrive(self, name: str, x: torch.Tensor | None = None) -> None:
        """Before layer `name` runs: repair its inputs, then damage its outputs."""
        if name in self.last:
            self.repair(self.last[name], x)
        if name in self.first:
            self.damage(self.first[name])
        elif name not in self.middle:
            self._quantize(name)

    def _quantize(self, name: str) -> None:
        if self.config.weight_bits is not None:
            weight = self.net.get_submodule(name).weight
            weight.data = quantize.quantize_weight(weight.data, self.config.weight_bits, self.config.per_channel)

    def damage(self, pair: Pair) -> None:
        """Quantise and prune the output channels of the pair's first layer, and of depthwise ones behind it."""
        whole = folded(self.net, self.graph, pair)
        needs_chain = self.config.repair in ("bias", "gaussian")
        chain = moments.GaussianChain(self.net, self.graph, pair) if needs_chain else None
        for name in (pair.first, *pair.middle):
            self._quantize(name)
        damage = Damage(self.keep[pair.first], whole, folded(self.net, self.graph, pair))
        damage.moments = chain.moments() if chain else None
        if self.config.criterion == "residual":
            damage.keep = self.keep[pair.first] = self._by_residual(pair, damage)
        if self.config.repair == "merging":
            norm = self.net.get_submodule(self.graph.layer(pair.first).norm)
            weight = self.net.get_submodule(pair.first).weight
            damage.coefficients = neuron_merging(weight, norm, damage.keep, self.config.threshold, self.config.lam)
        prune.cut_channels(self.net, self.graph, pair, damage.keep)
        self.damages[pair.first] = damage

    def _by_residual(self, pair: Pair, damage: Damage) -> torch.Tensor:
        """The channels that the chosen repair can least do without."""
        config, weight = self.config, self._next_weight(pair).transpose(0, 1).flatten(1)
        if self.seen:
            x = self.seen.inputs[pair.last]
            gram = moments.of_samples(x, x).cov
        elif damage.moments:
            gram = damage.moments.cov_hat
        else:
            gram = damage.left.a.T @ damage.left.a + config.alpha1 * torch.outer(damage.left.c, damage.left.c)
            return moments.give_up(gram, weight, len(damage.keep), config.alpha2)
        return moments.give_up(gram, weight, len(damage.keep), config.ridge * gram.diagonal().mean().item())

    def _next_weight(self, pair: Pair) -> torch.Tensor:
        """V as [P, O, T], T taps (or positions of a linear layer)."""
        weight = self.net.get_submodule(pair.last).weight.detach().double()
        return weight.view(len(weight), -1, pair.positions) if weight.ndim == 2 else weight.flatten(2)

    def _solve(self, pair: Pair, x: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, moments.Moments | None]:
        """Coefficients [K, O], intercepts [O], and the moments they rest on, if any."""
        config, damage = self.config, self.damages[pair.first]
        keep, channels = damage.keep, len(damage.whole.c)
        damaged = torch.full((channels,), config.weight_bits is not None)
        damaged |= ~torch.isin(torch.arange(channels), keep)
        here, none = identity(keep, channels), torch.zeros(channels, dtype=torch.float64)
        if x is not None:
            found = moments.of_samples(moments.sampled(x), self.seen.inputs[pair.last])
            return *moments.match(found, here, config.ridge), found
        if config.repair in ("bias", "gaussian"):
            found = damage.moments.of(keep)
            if config.repair == "bias":
                return here, found.mean - here.T @ found.mean_hat, None
            solved, intercept = moments.match(found, here, config.ridge)
            return unified(keep, solved, damaged), torch.where(damaged, intercept, none), found
        if config.repair == "closed_form":
            left = Folded(damage.left.a[:, keep], damage.left.c[keep])
            return unified(keep, closed_form(left, damage.whole, config.alpha1, config.alpha2), damaged), none, None
        return here if damage.coefficients is None else damage.coefficients, none, None

    def repair(self, pair: Pair, x: torch.Tensor | None = None) -> None:
        """Rebuild the inputs of the pair's last layer; x: that input, where there are images."""
        coefficients, intercept, found = self._solve(pair, x)
        layer, weight = self.net.get_submodule(pair.last), self._next_weight(pair)
        rebuilt = reconstruct(weight, coefficients)
        shift = torch.einsum("pot,o->p", weight, intercept)
        norm = self.graph.layer(pair.last).norm
        if norm is None or norm not in self.reference:
            absorb(self.net, norm, layer, shift)
        if norm and found and x is None and self.config.rescale:
            self.net.get_submodule(norm).running_var.mul_(moments.variance_share(weight, rebuilt, found))
        prune.cut_inputs(layer, self.damages[pair.first].keep, pair.positions)
        layer.weight.data = rebuilt.reshape(layer.weight.shape).to(layer.weight.dtype)

    def normalize(self, name: str, z: torch.Tensor) -> None:
        """Before BatchNorm `name` runs: tell it what became of its input."""
        if name in self.reference:
            mean, var = self.reference[name]
            if name in self.kept_norm:
                keep = self.keep[self.kept_norm[name]]
                mean, var = mean[keep], var[keep]
            moments.align(self.net.get_submodule(name), z, (mean, var))


def absorb(net: nn.Module, norm: str | None, layer: nn.Module, shift: torch.Tensor) -> None:
    r"""Let what follows add a constant: a BatchNorm lowers its mean, a layer without one raises its bias.

    .. math:: \mu_p \leftarrow \mu_p - \sum_j t_j \sum_\tau V_{pj\tau}

    Exact away from borders that are padded with zeros. Book: {ref}`ud-absorb`.
    """
    if norm is not None:
        mean = net.get_submodule(norm).running_mean
        mean.sub_(shift.to(mean.dtype))
    elif layer.bias is None:
        layer.bias = nn.Parameter(shift.to(layer.weight.dtype))
    else:
        layer.bias.data.add_(shift.to(layer.bias.dtype))


class OnePass(fx.Interpreter):
    """Runs the network on images node by node; every layer is repaired just before it runs."""

    def __init__(self, compression: Compression):
        self.compression = compression
        graph = compression.graph
        super().__init__(fx.GraphModule(compression.net, graph.nodes[0].graph))
        self.layers = {layer.name for layer in graph.layers}

    def call_module(self, target, args, kwargs):
        if target in self.layers:
            self.compression.arrive(target, args[0])
        else:
            self.compression.normalize(target, args[0])
        return super().call_module(target, args, kwargs)


def observe(model: nn.Module, pool: ImageSet) -> moments.Observed:
    """What `model` makes of images, to be given in their place when it is compressed several times."""
    return moments.observe(model, [pair.last for pair in prune.prunable(trace(model))], pool)


@torch.no_grad()
def compress(model: nn.Module, config: UDFC, pool: Images, shape: tuple[int, int, int]) -> tuple[nn.Module, dict]:
    """Prune, quantise and repair a copy of `model`; with images they pass through the network once, all together."""
    work = Compression(model, config, pool)
    if work.seen is None:
        for layer in work.graph.layers:
            work.arrive(layer.name)
    else:
        OnePass(work).run(work.seen.pool.floats())
    report = {
        "images": "none" if work.seen is None else work.seen.pool.name,
        "kept": {name: len(keep) for name, keep in work.keep.items()},
        "left_out": work.graph.problems(),
        "bytes": storage(work.net, work.graph, config.weight_bits),
    }
    return work.net, report


@torch.no_grad()
def map_errors(model: nn.Module, config: UDFC, images: ImageSet) -> dict[str, float]:
    r"""How far the next feature map moves when one layer is damaged and repaired, alone (UDFC, section 3.3).

    .. math:: e = \frac{\sum (\hat Z^{(l+1)} - Z^{(l+1)})^2}{\sum (Z^{(l+1)} - \bar Z^{(l+1)})^2}

    with Z after its BatchNorm, over all positions of `images`, and its mean per channel.

    Args:
        config: any repair but 'images'.
    Returns:
        layer l -> e, one value a pair. Equation ours. Book: {ref}`ud-error`.
    """
    wiring = Compression(model, config)
    where = {p.first: wiring.graph.layer(p.last).norm or p.last for p in wiring.pairs}
    before = moments.maps(model, list(where.values()), images)
    errors = {}
    for pair in wiring.pairs:
        work, name = Compression(model, config, graph=wiring.graph), where[pair.first]
        work.damage(work.first[pair.first])
        work.repair(work.first[pair.first])
        z, z_hat = before[name], moments.maps(work.net, [name], images)[name]
        centred = z - z.transpose(0, 1).flatten(1).mean(1).view(1, -1, *[1] * (z.ndim - 2))
        errors[pair.first] = ((z_hat - z).square().sum() / centred.square().sum()).item()
    return errors


def storage(net: nn.Module, graph: Graph, weight_bits: int | None) -> float:
    """Bytes to store the parameters: weights of convolutions and linear layers at `weight_bits`, all else at 32 bits."""
    weights = sum(net.get_submodule(layer.name).weight.numel() for layer in graph.layers)
    return (weights * (weight_bits or 32) + (sum(p.numel() for p in net.parameters()) - weights) * 32) / 8
