"""Matching the moments of activations: rebuild lost channels from those that are left.

X [O] are a layer's activations, X_hat [K] what is left of them. Moments of the two come from BatchNorm alone
(rectified Gaussians, no image at all) or from any images. From them follow the best linear combinations, how much
of the next layer's variance they keep, and which channels to remove (OBS). Used by UDFC; what is here is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...core import batchnorm
from ...core.graph import Graph, Pair
from ...core.hooks import evaluating, feature_hooks, input_hooks
from ...data.images import ImageSet
from ...errors import DataFreeError
from . import rectified_gaussian

RECTIFIED = ("relu", "relu6")
"""Activations taken for relu. What relu6 cuts off above six is neglected."""

DECAYS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 4.0, float("inf"))
"""Candidates for the decay of correlation between neighbouring pixels; infinity: white patches."""

GRID = 8
"""Activations are sampled on a grid of at most GRID x GRID positions an image."""

FACTOR_MIN = 0.05
"""The share of a map's variance that is taken to be left is never less: its BatchNorm is divided by it."""


@dataclass(frozen=True)
class JointMoments:
    """First and second moments of X_hat [K] and X [O] together, in float64.

    mean_hat [K], mean [O]; cov_hat [K, K] of X_hat; cross [K, O] between both; cov [O, O] of X.
    """

    mean_hat: torch.Tensor
    mean: torch.Tensor
    cov_hat: torch.Tensor
    cross: torch.Tensor
    cov: torch.Tensor

    def of(self, keep: torch.Tensor) -> JointMoments:
        """With only the channels `keep` of X_hat."""
        return JointMoments(self.mean_hat[keep], self.mean, self.cov_hat[keep][:, keep], self.cross[keep], self.cov)

    @classmethod
    def split(cls, mean: torch.Tensor, cov: torch.Tensor, kept: int) -> JointMoments:
        """From moments of (X_hat, X) stacked, of which the first `kept` entries are X_hat."""
        return cls(mean[:kept], mean[kept:], cov[:kept, :kept], cov[:kept, kept:], cov[kept:, kept:])


def match(moments: JointMoments, prior: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Linear combinations with intercept that lose least, drawn towards the network as it is.

    .. math:: S = P + (\hat C + \lambda \bar c I)^{-1} (C_\times - \hat C P), \qquad t = m - S^\top \hat m

    minimises E ||X - S' X_hat - t||^2 + lambda c ||S - P||^2, with c the mean variance of X_hat.

    Args:
        prior: P [K, O], one where a channel stands for itself, zero elsewhere.
        ridge: lambda, without unit.
    Returns:
        S [K, O] and t [O]. Book: {ref}`ud-matching`.
    """
    kept = len(moments.mean_hat)
    scale = moments.cov_hat.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    # (C_hat + lambda c I) (S - P) = C_x - C_hat P
    system = moments.cov_hat + ridge * scale * torch.eye(kept, dtype=torch.float64, device=moments.cov_hat.device)
    change = torch.linalg.solve(system, moments.cross - moments.cov_hat @ prior)
    coefficients = prior + change
    return coefficients, moments.mean - coefficients.T @ moments.mean_hat


def variance_share(weight: torch.Tensor, weight_hat: torch.Tensor, moments: JointMoments) -> torch.Tensor:
    r"""Variance of the next map after repair over the one before, for white neighbours in space.

    .. math:: f_p = \frac{\sum_\tau \hat v_{p\tau}^\top \hat C \hat v_{p\tau}}{\sum_\tau v_{p\tau}^\top C v_{p\tau}}

    Args:
        weight [P, O, T], weight_hat [P, K, T]: the next layer before and after, T taps.
    Returns:
        [P], at least FACTOR_MIN. Book: {ref}`ud-share`.
    """
    # white neighbours: the taps of a kernel do not correlate, so their variances add up
    before = torch.einsum("pot,oq,pqt->p", weight, moments.cov, weight)
    after = torch.einsum("pkt,kl,plt->p", weight_hat, moments.cov_hat, weight_hat)
    return (after / before.clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(FACTOR_MIN)


def kept_by_obs(gram: torch.Tensor, weight: torch.Tensor, count: int, ridge: float) -> torch.Tensor:
    r"""Channels that stay when an Optimal Brain Surgeon (OBS) removes those, one by one, that cost least.

    Least squares on Gram matrix G: removing channel j adds :math:`\|v_j\|^2 / [(G + \lambda I)^{-1}]_{jj}` to the
    error, where v_j is the next layer's weight after all repairs so far.

    Args:
        gram: [O, O]; weight: [O, T], what the next layer multiplies each channel with.
        count: how many stay. ridge: lambda, in units of the Gram matrix.
    Returns:
        indices [count] in rising order. Book: {ref}`ud-residual`.
    """
    inverse = torch.linalg.inv(gram.double() + ridge * torch.eye(len(gram), dtype=torch.float64, device=gram.device))
    weight, alive = weight.double().clone(), torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    for _ in range(len(gram) - count):
        cost = weight.square().sum(1) / inverse.diagonal()
        j = int(cost.masked_fill(~alive, torch.inf).argmin())
        column, pivot = inverse[:, j].clone(), inverse[j, j].clone()
        # the other channels take over what j did; then j leaves the inverse (block elimination)
        weight -= torch.outer(column / pivot, weight[j])
        inverse -= torch.outer(column, column) / pivot
        alive[j], inverse[j, j], weight[j] = False, 1.0, 0.0
    return alive.nonzero().flatten()


# Without images ---------------------------------------------------------------------------------------------------


def pixel_correlation(kernel: tuple[int, int], decay: float, device="cpu") -> torch.Tensor:
    """exp(-decay d^2) between the taps of a kernel [k k', k k'], d their distance in pixels."""
    places = torch.cartesian_prod(*(torch.arange(side, device=device) for side in kernel)).double().view(-1, 2)
    squared = (places[:, None] - places[None]).square().sum(2)
    return torch.where(squared == 0, 1.0, torch.exp(-decay * squared.clamp_min(1)))


def fit_decay(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm2d | None) -> float:
    r"""How fast correlation falls from pixel to pixel in a layer's input, read from its BatchNorm.

    BatchNorm stores the variance of each output channel; a patch covariance I (x) R(decay) predicts
    :math:`\sum_i w_{oi}^\top R\, w_{oi}` up to one common factor. The decay whose predictions, in logarithms,
    scatter least around the stored values is taken. Book: {ref}`ud-decay`.
    """
    if norm is None or layer.weight.ndim < 4 or layer.weight[0, 0].numel() == 1:
        return float("inf")
    weight, stored = layer.weight.detach().double().flatten(2), norm.running_var.double().clamp_min(1e-12).log()

    def scatter(decay: float) -> float:
        correlation = pixel_correlation(layer.kernel_size, decay, weight.device)
        predicted = torch.einsum("oip,pq,oiq->o", weight, correlation, weight).clamp_min(1e-12)
        return (stored - predicted.log()).var().item()

    return min(DECAYS, key=scatter)


def _normalised(cov: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviations and correlations of (X_hat, X), or of X alone, when X is to have the standard deviations `wanted`."""
    std = cov.diagonal().clamp_min(1e-30).sqrt()
    factor = wanted / std[-len(wanted) :]
    return factor.repeat(len(std) // len(wanted)) * std, (cov / torch.outer(std, std)).clamp(-1, 1)


def _norm_pair(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    count = norm.num_features
    beta = norm.running_mean.new_zeros(count) if norm.bias is None else norm.bias.detach()
    gamma = norm.running_mean.new_ones(count) if norm.weight is None else norm.weight.detach()
    return beta.double(), gamma.double().abs()


def _taps(layer: nn.Module, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Weight [O, I, T] with the sign of its BatchNorm's factor."""
    weight = layer.weight.detach().double()
    sign = 1.0 if norm.weight is None else norm.weight.detach().double().sign().view(-1, *[1] * (weight.ndim - 1))
    return (weight * sign).flatten(2) if weight.ndim == 4 else weight[:, :, None]


def check_rectified(graph: Graph, pair: Pair) -> None:
    """DataFreeError where the channels of a pair are no rectified Gaussians that BatchNorm knows."""
    for layer in map(graph.layer, (pair.first, *pair.middle)):
        if layer.norm is None or (layer.act or "relu") not in RECTIFIED:
            raise DataFreeError(
                f"'{layer.name}' is not followed by BatchNorm and relu (but by {layer.norm or 'no BatchNorm'} and "
                f"{layer.act}), so its activations are no rectified Gaussians; repair with images or closed_form."
            )


class GaussianChain:
    """Moments of (X_hat, X) for one pair by rectified Gaussians, from weights and BatchNorm alone.

    Made while the weights are still whole; `moments` is asked after they were damaged. Book: {ref}`ud-white`.
    """

    def __init__(self, net: nn.Module, graph: Graph, pair: Pair):
        check_rectified(graph, pair)
        self.layers = [graph.layer(name) for name in (pair.first, *pair.middle)]
        self.modules = [net.get_submodule(layer.name) for layer in self.layers]
        self.norms = [net.get_submodule(layer.norm) for layer in self.layers]
        self.patches = [
            pixel_correlation(tuple(m.weight.shape[2:]) or (1, 1), fit_decay(m, norm), m.weight.device)
            for m, norm in zip(self.modules, self.norms)
        ]
        self.whole = self._weights()

    def _weights(self) -> list[torch.Tensor]:
        return [_taps(module, norm) for module, norm in zip(self.modules, self.norms)]

    def moments(self) -> JointMoments:
        """Of all channels, as they are now (X_hat) and as they were when this object was made (X)."""
        now, cov = self._weights(), None
        same = all(map(torch.equal, now, self.whole))
        for layer, norm, patch, a, b in zip(self.layers, self.norms, self.patches, now, self.whole):
            weight = b if same else torch.cat([a, b])  # of X_hat and X stacked
            # covariance of what goes into BatchNorm: through the patches' correlation, and the channels' before
            linear = (weight @ patch).flatten(1) @ weight.flatten(1).T
            beta, gamma = _norm_pair(norm)
            # X gets BatchNorm's own deviation |gamma|, X_hat what is left of it
            std, rho = _normalised(linear if cov is None else linear * cov, gamma)
            mean = beta.repeat(len(std) // len(beta))
            cov = rho * torch.outer(std, std)
            if layer.act is not None:
                mean, cov = rectified_gaussian.covariance(mean, std, rho)
        return JointMoments(mean, mean, cov, cov, cov) if same else JointMoments.split(mean, cov, len(mean) // 2)


# With images ------------------------------------------------------------------------------------------------------


def sampled(x: torch.Tensor) -> torch.Tensor:
    """Activations [N, C, H, W] on a grid of positions, as rows [samples, C]; rows [N, C] stay as they are."""
    if x.ndim == 2:
        return x
    steps = [max(1, size // GRID) for size in x.shape[2:]]
    x = x[:, :, steps[0] // 2 :: steps[0], steps[1] // 2 :: steps[1]]
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def of_samples(x_hat: torch.Tensor, x: torch.Tensor) -> JointMoments:
    """Moments of samples [n, K] and [n, O] that belong together row by row."""
    both = torch.cat([x_hat, x], 1).double()
    mean = both.mean(0)
    both -= mean
    return JointMoments.split(mean, both.T @ both / len(both), x_hat.shape[1])


@dataclass(frozen=True)
class Observed:
    """Images and what the float network made of them; give it in place of the images to repair several times.

    inputs: layer -> its sampled input [samples, C]; norms: BatchNorm -> mean and variance [C] of its input.
    """

    images: ImageSet
    inputs: dict[str, torch.Tensor]
    norms: dict[str, batchnorm.Moments]


@torch.no_grad()
def observe(model: nn.Module, layers: list[str], images: ImageSet, batch: int = 250) -> Observed:
    """Inputs of `layers` and moments at every BatchNorm over all images, in one pass; the model is not changed."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    inputs: dict[str, list] = {name: [] for name in layers}
    sums = {name: norm.running_mean.new_zeros(2, norm.num_features) for name, norm in norms.items()}

    def keep(name: str, x: torch.Tensor) -> None:
        inputs[name].append(sampled(x))

    def add(name: str, z: torch.Tensor) -> None:  # first and second moment, each batch with its share of the images
        sums[name] += torch.stack((z.mean((0, 2, 3)), z.square().mean((0, 2, 3)))) * (len(z) / len(images))

    with input_hooks(model, inputs, keep), input_hooks(model, norms, add), evaluating(model):
        for x, _ in images.batches(batch):
            model(x)
    found = {name: (mean, (square - mean.square()).clamp_min(0)) for name, (mean, square) in sums.items()}
    return Observed(images, {name: torch.cat(parts) for name, parts in inputs.items()}, found)


@torch.no_grad()
def maps(net: nn.Module, names: list[str], images) -> dict[str, torch.Tensor]:
    """Outputs of the modules `names` for all images at once, in evaluation mode."""
    with feature_hooks(net, names) as seen, evaluating(net):
        net(images.floats())
    return dict(zip(names, seen))
