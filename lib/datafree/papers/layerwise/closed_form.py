"""Layer-Wise Data-Free CNN Compression, eq. 16 in the mean over all inputs: all layers in one vector, gradient by hand.

`pruning.expected_layer_loss` is the plain form of one layer, with autograd; a test holds the two equal. Here a step
costs a dozen sweeps over the weights, so that the paper's 100,000 steps take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Rows:
    """What the expected loss of one layer needs: a line for each row of its weight.

    weight: the teacher's [R, K]. mean, variance: [R, K] of the values that each weight meets.
    scale: [R], what each row's error counts: the square of its output buffer over the number of rows.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    scale: torch.Tensor


class SumOfLosses:
    r"""The expected losses of all layers as a function of all weights W [1, n] and all thresholds s [L].

    .. math:: \mathcal L_l = \sum_{o \in l} \alpha_o \Bigl[\sum_k \sigma_{ok}^2 d_{ok}^2
              + \bigl(\sum_k \mu_{ok} d_{ok}\bigr)^2\Bigr], \qquad d = W - \mathrm{clip}(W, -\theta_l, \theta_l) - W^{\text{teacher}}

    with theta the sigmoid of s and alpha the scale of a row.
    """

    def __init__(self, layers: Sequence[Rows]):
        self.shapes = [part.weight.shape for part in layers]
        self.sizes = [part.weight.numel() for part in layers]
        device = layers[0].weight.device
        counts, lengths = (torch.tensor(v, device=device) for v in zip(*self.shapes))
        self.layer_of = _places(torch.tensor(self.sizes, device=device))  # [n]
        self.row_of = _places(lengths.repeat_interleave(counts))  # [n]
        self.teacher = torch.cat([part.weight.flatten() for part in layers])
        self.mean = torch.cat([part.mean.flatten() for part in layers])
        self.scale = 2 * torch.cat([part.scale for part in layers])
        variance = torch.cat([part.variance.flatten() for part in layers])
        self.curvature = variance * self.scale[self.row_of]

    def __call__(self, weight: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The loss of each layer [L], with gradients to `weight` [1, n] and `s` [L]."""
        return _Differentiated.apply(weight, s, self)

    def evaluate(self, weight: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Losses [L], and the gradients of their sum: [n] and [L]."""
        theta = torch.sigmoid(s)
        line = theta.index_select(0, self.layer_of)
        shrunk = weight - weight.clamp(-line, line)  # eq. 15
        error = shrunk - self.teacher
        shifted = self._by_row(self.mean * error).mul_(self.scale)  # 2 alpha_o sum_k mu d
        # 2 alpha (sigma^2 d + mu sum mu d); half of its product with d is the loss, which is quadratic
        gradient = (self.curvature * error).addcmul_(self.mean, shifted.index_select(0, self.row_of))
        losses = 0.5 * self._by_layer(error.mul_(gradient))
        sign = shrunk.sign()  # zero below the threshold: nothing moves there
        pull = gradient.mul_(sign)
        raise_s = -self._by_layer(pull) * theta * (1 - theta)
        return losses, pull.mul_(sign), raise_s

    def _by_row(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.view(shape).sum(1) for part, shape in zip(values.split(self.sizes), self.shapes)])

    def _by_layer(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.sum() for part in values.split(self.sizes)])


def _places(lengths: torch.Tensor) -> torch.Tensor:
    """0, ..., 0, 1, ..., 1, 2, ...: to which of the stretches of these lengths each place belongs."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


class _Differentiated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, s, losses):
        found, *gradients = losses.evaluate(weight.flatten(), s)
        ctx.save_for_backward(*gradients)
        return found

    @staticmethod
    def backward(ctx, outer):
        """The losses may only be added up, so that one factor serves them all."""
        weight, s = ctx.saved_tensors
        return weight.unsqueeze(0) * outer[0], s * outer[0], None


def shared(layers: Sequence[nn.Module]) -> tuple[nn.Parameter, nn.Parameter]:
    """All weights [1, n] and all thresholds [L] as two vectors, of which each layer's parameters become views.

    layers: of `pruning.ThresholdedLayer`; whoever looks at them in between sees the training go on.
    """
    weight = nn.Parameter(torch.cat([layer.inner.weight.detach().flatten() for layer in layers]).unsqueeze(0))
    s = nn.Parameter(torch.stack([layer.s.detach() for layer in layers]))
    parts = weight.data[0].split([layer.inner.weight.numel() for layer in layers])
    for layer, part, threshold in zip(layers, parts, s.data):
        layer.inner.weight.data, layer.s.data = part.view_as(layer.inner.weight), threshold
    return weight, s
