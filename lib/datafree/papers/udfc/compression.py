"""UDFC (Bai, Chen, Shen, Qian, Liu, 2023): prune and quantise a layer, repair it in the next one, in closed form.

The order of work and the matching of moments are not the paper's; see `moment_matching` for the latter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import fx, nn

from ...baselines import neuron_merging
from ...config import Strict
from ...core import batchnorm, pruning, quantizer
from ...core.flops import weight_bytes
from ...core.graph import Pair, put_module, trace
from ...core.register import Result, method
from ...data.images import ImageSet
from ...errors import DataFreeError
from . import moment_matching, reconstruction

Images = ImageSet | moment_matching.Observed | None
Repair = Literal["none", "bias", "merging", "closed_form", "nonnegative", "gaussian", "images"]
REPAIRS: dict[str, str] = {
    "none": "no repair",
    "bias": "bias only",
    "merging": "Neuron Merging",
    "closed_form": "closed form",
    "nonnegative": "closed form, s >= 0",
    "gaussian": "rectified Gaussians",
    "images": "images",
}
"""The ways to repair the next layer, with the names shown in figures."""
SOLVERS = {"closed_form": reconstruction.closed_form, "nonnegative": reconstruction.closed_form_nonnegative}
"""Repairs that minimise the loss of section 3.3."""


class UDFC(Strict):
    """What `datafree.compress` needs to know for this paper: how much goes, how it is chosen, how it is repaired."""

    prune_ratio: float = Field(
        0.3, ge=0, lt=1, description="share of the channels of every pair that goes (abstract: 0.3)"
    )
    weight_bits: int | None = Field(None, ge=2, le=16, description="width of all weights; None: float (abstract: 6)")
    per_channel: bool = Field(True, description="weight ranges per output channel; not given")
    criterion: Literal["l1", "l2", "residual"] = Field("l2", description="which channels go; not given. residual: ours")
    scope: Literal["layer", "global"] = Field("layer", description="ratio of each layer or of all; not given")
    repair: Repair = Field(
        "closed_form", description="closed_form is the derivation; nonnegative, gaussian, images: ours"
    )
    alpha1: float = Field(
        reconstruction.ALPHA1, ge=0, description="weight of the BatchNorm residual, as a secondary source reports it"
    )
    alpha2: float = Field(
        reconstruction.ALPHA2, ge=0, description="weight of the coefficients' norm, as a secondary source reports it"
    )
    threshold: float = Field(
        neuron_merging.THRESHOLD, ge=-1, le=1, description="merging: smallest cosine that is merged"
    )
    lam: float = Field(
        neuron_merging.LAM, ge=0, le=1, description="merging: weight of the cosine against the bias term"
    )
    ridge: float = Field(0.01, ge=0, description="gaussian, images: lambda, in mean variances; ours")
    rescale: bool = Field(True, description="gaussian, images: BatchNorm is told of the variance that is left; ours")


# The whole network ------------------------------------------------------------------------------------------------


@dataclass
class Damage:
    """What was done to the channels of a pair, until the next layer repairs it."""

    keep: torch.Tensor
    whole: reconstruction.Folded
    left: reconstruction.Folded
    coefficients: torch.Tensor | None = None
    moments: moment_matching.JointMoments | None = None


class Compression:
    """One pass through a network: layer by layer, damage first, repair where the damage arrives.

    `arrive` is called for every layer in the order they run, with its input where there are images.
    """

    def __init__(self, model: nn.Module, config: UDFC, images: Images = None):
        self.config, self.graph = config, trace(model)
        self.pairs = [pair for pair in pruning.prunable(self.graph) if pair.acts]
        self._preflight(images)
        self.net = copy.deepcopy(model).eval()
        self.first = {pair.first: pair for pair in self.pairs}
        self.last = {pair.last: pair for pair in self.pairs}
        self.middle = {name for pair in self.pairs for name in pair.middle}
        norm = "l2" if config.criterion == "residual" else config.criterion
        ranked = {name: pruning.scores(self.net.get_submodule(name).weight, norm) for name in self.first}
        self.keep = pruning.choose(ranked, config.prune_ratio, config.scope)
        self.kept_norm = {self.graph.layer(n).norm: p.first for p in self.pairs for n in (p.first, *p.middle)}
        self.damages: dict[str, Damage] = {}
        self.seen = moment_matching.observe(model, list(self.last), images) if isinstance(images, ImageSet) else images
        # moments before any damage, for BatchNorm to be told what has changed
        self.reference = self.seen.norms if self.seen and config.rescale else {}

    def _preflight(self, images: Images) -> None:
        if not self.pairs:
            raise DataFreeError(f"{self.graph.network} has no two layers with only an activation between them.")
        if (self.config.repair == "images") != (images is not None):
            raise DataFreeError(
                "repair='images' and images= belong together: give both, for instance with BNS images of "
                "datafree.papers.knowledge_within.synthesis.image_set, or neither."
            )
        if isinstance(images, moment_matching.Observed) and {pair.last for pair in self.pairs} - set(images.inputs):
            raise DataFreeError("the images were observed in another network; call udfc.observe with this one.")
        for pair in self.pairs:
            if self.config.repair in ("bias", "gaussian"):
                moment_matching.check_rectified(self.graph, pair)
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
            weight.data = quantizer.quantize_weight(weight.data, self.config.weight_bits, self.config.per_channel)

    def damage(self, pair: Pair) -> None:
        """Quantise and prune the output channels of the pair's first layer, and of depthwise ones behind it."""
        # A, c: before the damage
        whole = reconstruction.folded(self.net, self.graph, pair)
        needs_chain = self.config.repair in ("bias", "gaussian")
        chain = moment_matching.GaussianChain(self.net, self.graph, pair) if needs_chain else None
        for name in (pair.first, *pair.middle):
            self._quantize(name)
        damage = Damage(self.keep[pair.first], whole, reconstruction.folded(self.net, self.graph, pair))
        damage.moments = chain.moments() if chain else None
        if self.config.criterion == "residual":
            damage.keep = self.keep[pair.first] = self._by_residual(pair, damage)
        if self.config.repair == "merging":
            norm = self.net.get_submodule(self.graph.layer(pair.first).norm)
            weight = self.net.get_submodule(pair.first).weight
            damage.coefficients = neuron_merging.neuron_merging(
                weight, norm, damage.keep, self.config.threshold, self.config.lam
            )
        pruning.cut_channels(self.net, self.graph, pair, damage.keep)
        self.damages[pair.first] = damage

    def _by_residual(self, pair: Pair, damage: Damage) -> torch.Tensor:
        """The channels that the chosen repair can least do without."""
        config, weight = self.config, self._next_weight(pair).transpose(0, 1).flatten(1)
        if self.seen:
            x = self.seen.inputs[pair.last]
            gram = moment_matching.of_samples(x, x).cov
        elif damage.moments:
            gram = damage.moments.cov_hat
        else:
            # the quadratic form of the loss (section 3.3) without its ridge
            gram = damage.left.a.T @ damage.left.a + config.alpha1 * torch.outer(damage.left.c, damage.left.c)
            return moment_matching.kept_by_obs(gram, weight, len(damage.keep), config.alpha2)
        return moment_matching.kept_by_obs(gram, weight, len(damage.keep), config.ridge * gram.diagonal().mean().item())

    def _next_weight(self, pair: Pair) -> torch.Tensor:
        """V as [P, O, T], T taps (or positions of a linear layer)."""
        weight = self.net.get_submodule(pair.last).weight.detach().double()
        return weight.view(len(weight), -1, pair.positions) if weight.ndim == 2 else weight.flatten(2)

    def _solve(
        self, pair: Pair, x: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, moment_matching.JointMoments | None]:
        """Coefficients [K, O], intercepts [O], and the moments they rest on, if any."""
        config, damage = self.config, self.damages[pair.first]
        keep, channels = damage.keep, len(damage.whole.c)
        damaged = torch.full((channels,), config.weight_bits is not None, device=keep.device)
        # pruned channels are damaged always, all others only by rounding
        damaged |= ~torch.isin(torch.arange(channels, device=keep.device), keep)
        # s = identity, t = 0: nothing is rebuilt
        here, none = reconstruction.identity(keep, channels), damage.whole.c.new_zeros(channels)
        if x is not None:
            found = moment_matching.of_samples(moment_matching.sampled(x), self.seen.inputs[pair.last])
            return *moment_matching.match(found, here, config.ridge), found
        if config.repair in ("bias", "gaussian"):
            found = damage.moments.of(keep)
            if config.repair == "bias":
                # only the mean that was lost comes back, as a constant
                return here, found.mean - here.T @ found.mean_hat, None
            solved, intercept = moment_matching.match(found, here, config.ridge)
            return reconstruction.unified(keep, solved, damaged), torch.where(damaged, intercept, none), found
        if config.repair in SOLVERS:
            left = reconstruction.Folded(damage.left.a[:, keep], damage.left.c[keep])
            lost = reconstruction.Folded(damage.whole.a[:, damaged], damage.whole.c[damaged])
            solved = here.clone()
            solved[:, damaged] = SOLVERS[config.repair](left, lost, config.alpha1, config.alpha2)
            return reconstruction.unified(keep, solved, damaged), none, None
        return here if damage.coefficients is None else damage.coefficients, none, None

    def repair(self, pair: Pair, x: torch.Tensor | None = None) -> None:
        """Rebuild the inputs of the pair's last layer; x: that input, where there are images."""
        coefficients, intercept, found = self._solve(pair, x)
        layer, weight = self.net.get_submodule(pair.last), self._next_weight(pair)
        rebuilt = reconstruction.reconstruct(weight, coefficients)
        # sum_j t_j sum_tau V_pj,tau
        shift = torch.einsum("pot,o->p", weight, intercept)
        norm = self.graph.layer(pair.last).norm
        # where images pass, `normalize` finds the new mean itself
        if norm is None or norm not in self.reference:
            absorb(self.net, norm, layer, shift)
        if norm and found and x is None and self.config.rescale:
            self.net.get_submodule(norm).running_var.mul_(moment_matching.variance_share(weight, rebuilt, found))
        pruning.cut_inputs(layer, self.damages[pair.first].keep, pair.positions)
        layer.weight.data = rebuilt.reshape(layer.weight.shape).to(layer.weight.dtype)

    def normalize(self, name: str, z: torch.Tensor) -> None:
        """Before BatchNorm `name` runs: tell it what became of its input."""
        if name in self.reference:
            mean, var = self.reference[name]
            if name in self.kept_norm:
                keep = self.keep[self.kept_norm[name]]
                mean, var = mean[keep], var[keep]
            batchnorm.align(self.net.get_submodule(name), z, (mean, var))


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


def observe(model: nn.Module, images: ImageSet) -> moment_matching.Observed:
    """What `model` makes of images, to be given in their place when it is compressed several times."""
    return moment_matching.observe(model, [pair.last for pair in pruning.prunable(trace(model))], images)


def thinner(model: nn.Module, state: dict[str, torch.Tensor]) -> nn.Module:
    """The same modules with as many channels as the weights of `state` have; `model` itself is changed."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if getattr(module, leaf, None) is None:  # a repair added it
            setattr(module, leaf, nn.Parameter(torch.empty_like(value), value.is_floating_point()))
        elif getattr(module, leaf).shape != value.shape:
            getattr(module, leaf).data = torch.empty_like(value)
        if isinstance(module, nn.Conv2d) and leaf == "weight":
            # [out, in / groups, k, k]; a grouped convolution is depthwise here, with as many groups as outputs
            module.groups = module.groups if module.groups == 1 else len(value)
            module.out_channels, module.in_channels = len(value), value.shape[1] * module.groups
    return model


@method(
    "udfc",
    paper="UDFC",
    about="prune channels, quantise weights; the next layer repairs the damage in closed form",
    structure=thinner,
)
@torch.no_grad()
def compress(model: nn.Module, config: UDFC, images: Images = None) -> Result:
    """Prune, quantise and repair a copy of `model`; with images they pass through the network once, all together."""
    work = Compression(model, config, images)
    if work.seen is None:
        for layer in work.graph.layers:
            work.arrive(layer.name)
    else:
        OnePass(work).run(work.seen.images.floats())
    report = {
        "images": "none" if work.seen is None else work.seen.images.name,
        "kept": {name: len(keep) for name, keep in work.keep.items()},
        "left_out": work.graph.problems(),
        "bytes": weight_bytes(work.net, dict.fromkeys((n.name for n in work.graph.layers), config.weight_bits or 32)),
    }
    return Result(work.net, report)


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
    work = Compression(model, config)
    norm_of = {layer.name: layer.norm for layer in work.graph.layers}
    where = {p.first: norm_of[p.last] or p.last for p in work.pairs}
    before = moment_matching.maps(model, list(where.values()), images)
    errors = {}
    for pair in work.pairs:
        layers = (pair.first, *pair.middle, pair.last)
        touched = [name for name in (*layers, *map(norm_of.get, layers)) if name]
        whole = {name: copy.deepcopy(work.net.get_submodule(name)) for name in touched}
        work.damage(pair)
        work.repair(pair)
        name = where[pair.first]
        z, z_hat = before[name], moment_matching.maps(work.net, [name], images)[name]
        # Z minus its mean a channel
        centred = z - z.transpose(0, 1).flatten(1).mean(1).view(1, -1, *[1] * (z.ndim - 2))
        errors[pair.first] = ((z_hat - z).square().sum() / centred.square().sum()).item()
        for name, module in whole.items():
            put_module(work.net, name, module)
    return errors
