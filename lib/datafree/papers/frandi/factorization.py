"""Spatial SVD: a convolution as two thin ones, for whole networks, with their cost known before they are built.

    parts = decompose(conv.weight)                one SVD; every rank is cut from it
    spatial_svd(conv, rank, parts)                two convolutions in a row, in place of `conv`
    factors = Factorizer(model)                   all convolutions that can be split, each decomposed once
    factors.macs(ranks), factors.network(ranks)   what a set of ranks costs, and the network it stands for

Ranks are a mapping from the names of convolutions to numbers; what it does not name stays dense.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import nn

from ...core.graph import put_module
from ...errors import DataFreeError
from . import compressible


class Parts(NamedTuple):
    """Singular vectors and values of a kernel: left [I D, K], values [K], falling, right [K, O D]."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor


def kept_share(inputs: int, outputs: int, side: int, rank: int) -> float:
    r"""Share of weights that a layer of some rank keeps (FRanDI, appendix A.2.1).

    .. math:: \frac{(I D + O D)\, R}{I\, O\, D^2}

    Args:
        inputs, outputs: I and O, channels; side: D, of the square kernel; rank: R.
    Returns:
        above one where the split costs more than it saves; also the share of operations, where the stride is one.
        Book: {ref}`fr-svd`.
    """
    return (inputs + outputs) * side * rank / (inputs * outputs * side**2)


@torch.no_grad()
def decompose(weight: torch.Tensor) -> Parts:
    r"""SVD of a kernel whose rows are input channels and heights, its columns output channels and widths
    (FRanDI, appendix A.2.1).

    .. math:: M_{(i, a), (o, b)} = W_{o, i, a, b}, \qquad M = U\, \mathrm{diag}(s)\, V^\top

    Args:
        weight: W, [O, I, D, D].
    Returns:
        K = min(I D, O D) triples. Book: {ref}`fr-svd`.
    """
    o, i, height, width = weight.shape
    # W[o, i, a, b] -> M[(i, a), (o, b)]
    matrix = weight.detach().permute(1, 2, 0, 3).reshape(i * height, o * width)
    return Parts(*torch.linalg.svd(matrix, full_matrices=False))


@torch.no_grad()
def compact_weight(parts: Parts, rank: int, shape: torch.Size) -> torch.Tensor:
    r"""The part of a kernel that stays; the redundant part is the rest (FRanDI, eq. 2).

    .. math:: W = W_{\mathrm{compact}} + W_{\mathrm{redundant}}, \qquad
              W_{\mathrm{compact}} = \sum_{k \le R} s_k\, u_k v_k^\top

    Args:
        shape: of W.
    Returns:
        dense, [O, I, D, D]; two convolutions by `spatial_svd` compute the same. Book: {ref}`fr-split`.
    """
    o, i, height, width = shape
    # sum over k <= R of s_k u_k v_k'
    matrix = (parts.left[:, :rank] * parts.values[:rank]) @ parts.right[:rank]
    # M[(i, a), (o, b)] -> W[o, i, a, b]
    return matrix.view(i, height, o, width).permute(2, 0, 1, 3).contiguous()


def _check(conv: nn.Conv2d, rank: int, name: str = "") -> None:
    what = f"convolution '{name}'" if name else "the convolution"
    if not splittable(conv):
        raise DataFreeError(
            f"{what} cannot be split: it needs one group, a kernel wider than one, and padding by a number of zeros."
        )
    full = min(conv.in_channels * conv.kernel_size[0], conv.out_channels * conv.kernel_size[1])
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= full:
        raise DataFreeError(f"{what} has rank {full}, {rank!r} was asked for; give a whole number from 1 to {full}.")


def splittable(conv: nn.Module) -> bool:
    """Whether `spatial_svd` can split this layer: one group, a kernel of more than one pixel, padded with zeros."""
    return (
        isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.kernel_size) > 1
        and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    )  # fmt: skip


@torch.no_grad()
def spatial_svd(conv: nn.Conv2d, rank: int, parts: Parts | None = None) -> nn.Sequential:
    r"""A column convolution from I to R channels, then a row convolution from R to O (FRanDI, appendix A.2.1).

    .. math:: W^{(1)}_{r, i, a} = \sqrt{s_r}\, U_{(i, a), r}, \qquad W^{(2)}_{o, r, b} = \sqrt{s_r}\, V_{(o, b), r}

    The paper says neither how the singular values are shared nor where the stride goes: here evenly, and
    (s, 1), then (1, s), which is what the printed compression of table 8 asks for.

    Args:
        conv: left as it is; rank: R, from 1 to min(I D, O D); parts: of its weight, if they are known.
    Returns:
        equal to `conv` at full rank. Book: {ref}`fr-svd`.
    """
    _check(conv, rank)
    parts = parts or decompose(conv.weight)
    (height, width), (down, across) = conv.kernel_size, conv.stride
    (top, left), (rows, columns) = conv.padding, conv.dilation
    i, o, root = conv.in_channels, conv.out_channels, parts.values[:rank].sqrt()
    here = {"device": conv.weight.device}
    first = nn.Conv2d(i, rank, (height, 1), (down, 1), (top, 0), (rows, 1), bias=False, **here)
    second = nn.Conv2d(rank, o, (1, width), (1, across), (0, left), (1, columns), bias=conv.bias is not None, **here)
    first.weight.data = (parts.left[:, :rank] * root).T.reshape(rank, i, height, 1).contiguous()
    second.weight.data = (root[:, None] * parts.right[:rank]).view(rank, o, 1, width).transpose(0, 1).contiguous()
    if conv.bias is not None:
        second.bias.data = conv.bias.detach().clone()
    return nn.Sequential(first, second).train(conv.training)


class Factorizer(compressible.CompressibleLayers):
    """A network's convolutions, each decomposed once; every set of ranks is cut from these.

    The shortcuts of one pixel stay dense too.
    """

    NONE = "the first one stays as it is, and the others need one group and a kernel of more than one pixel."

    def __init__(self, model: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)):
        super().__init__(model, shape)
        self.parts = {name: decompose(model.get_submodule(name).weight) for name in self.layers}

    def treats(self, conv: nn.Conv2d) -> bool:
        return splittable(conv)

    def _layer(
        self, name: str, conv: nn.Conv2d, received: tuple[int, ...], made: tuple[int, ...]
    ) -> compressible.CompressibleLayer:
        (height, width), i, o = conv.kernel_size, conv.in_channels, conv.out_channels
        columns, rows = i * height, o * width
        return compressible.CompressibleLayer(
            name, min(columns, rows), conv.weight.numel(), conv.weight.numel() * made[2] * made[3],
            columns + rows, columns * made[2] * received[3] + rows * made[2] * made[3],
        )  # fmt: skip

    def compact(self, name: str, rank: int) -> torch.Tensor:
        """The dense kernel of this rank."""
        return compact_weight(self.parts[name], rank, self.model.get_submodule(name).weight.shape)

    THIN = 0.5
    """Share of the dense operations up to which two thin convolutions are quicker than the dense one."""

    def quickest(self, name: str, rank: int) -> nn.Module:
        """Two thin convolutions where they save enough operations, else one with the dense kernel."""
        layer = self.layers[name]
        if rank * layer.macs_per_rank > self.THIN * layer.macs:
            return super().quickest(name, rank)
        return spatial_svd(self.model.get_submodule(name), rank, self.parts[name])

    def network(self, ranks: compressible.Ranks) -> nn.Module:
        """A copy of the model in which each named convolution is two; names of modules stay, so feature hooks find them."""
        for name, rank in ranks.items():
            self.layer(name)
            _check(self.model.get_submodule(name), rank, name)
        thin = copy.deepcopy(self.model)
        for name, rank in ranks.items():
            put_module(thin, name, spatial_svd(self.model.get_submodule(name), rank, self.parts[name]))
        return thin

    def uniform(self, reduction: float) -> dict[str, int]:
        """Ranks of one share for all layers, with about so many times fewer operations."""
        target = self.dense_macs / reduction
        # what stays dense costs this much whatever the ranks
        fixed = self.dense_macs - sum(layer.macs for layer in self.layers.values())
        share = (target - fixed) / (self.dense_macs - fixed)
        if not 0 < share <= 1:
            raise DataFreeError(
                f"{reduction:g} times fewer operations cannot be reached; the dense rest allows at most "
                f"{self.dense_macs / fixed:.3g} times, and less than once is none."
            )
        return {name: max(1, round(share * layer.macs / layer.macs_per_rank)) for name, layer in self.layers.items()}
