"""Is this a network that can be compressed and measured? One cheap forward pass answers, before any work is done."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import DataFreeError
from ..networks.blocks import Normalize
from .hooks import frozen, uses_of

UNSUPPORTED = (nn.ConvTranspose2d, nn.Conv1d, nn.Conv3d, nn.RNNBase)


def checked(model: nn.Module, shape: tuple[int, int, int]) -> torch.Size:
    """Shape of what `model` gives for two images of `shape`: [2, K] or [2, K, H, W]; the model stays as it is.

    Raises:
        DataFreeError: a layer or value that is not supported, or a forward pass that fails or gives no such tensor.
    """
    check_layers(model)
    check_values(model)
    made = check_output(model, shape)
    check_called(model, shape)
    return made


def check_layers(model: nn.Module) -> None:
    """DataFreeError, by name, where a layer is of a kind that is not supported or computes its weight from others."""
    if not isinstance(model, nn.Module):
        raise DataFreeError(f"got a {type(model).__name__} as model; give a torch.nn.Module.")
    for name, module in model.named_modules():
        if isinstance(module, UNSUPPORTED):
            raise DataFreeError(f"layer '{name}' is of a kind that is not supported; convolutions must be Conv2d.")
        if isinstance(module, nn.SyncBatchNorm):
            raise DataFreeError(
                f"'{name}' is a SyncBatchNorm, for training on many cards; make it a BatchNorm2d first."
            )
        if parametrize.is_parametrized(module) or hasattr(module, "weight_g") or hasattr(module, "weight_orig"):
            raise DataFreeError(
                f"layer '{name}' computes its weight from others (weight_norm, spectral_norm, pruning mask); "
                "make it a plain weight first, with torch.nn.utils.parametrize.remove_parametrizations or its like."
            )


def check_values(model: nn.Module) -> None:
    """DataFreeError, by name, where a value is not a finite float32, a variance is negative or a std is not positive."""
    for name, value in itertools.chain(model.named_parameters(), model.named_buffers()):
        counter = value.dtype == torch.int64 and not isinstance(value, nn.Parameter)  # num_batches_tracked
        if value.dtype != torch.float32 and not counter and value.dtype != torch.bool:
            raise DataFreeError(f"'{name}' is {value.dtype}; all values must be torch.float32, call model.float().")
        if value.layout != torch.strided or value.is_meta:
            raise DataFreeError(f"'{name}' is a sparse or meta tensor; give dense tensors that hold values.")
        if value.is_floating_point() and not value.isfinite().all():
            raise DataFreeError(f"'{name}' holds NaN or infinity; the network is damaged.")
        if name.rpartition(".")[2] == "running_var" and (value < 0).any():
            raise DataFreeError(f"'{name}' holds a negative variance; the network is damaged.")
    for name, module in model.named_modules():
        if isinstance(module, Normalize) and not (module.std > 0).all():
            raise DataFreeError(f"the std of '{name}' must be above zero in every channel.")


@torch.no_grad()
def check_output(model: nn.Module, shape: tuple[int, int, int]) -> torch.Size:
    """The shape of the output for two images of `shape`; DataFreeError where it is not one finite tensor of scores."""
    if len(shape) != 3 or any(type(n) is not int or n < 1 for n in shape):
        raise DataFreeError(f"the shape of an image is channels, height, width, all above zero, not {tuple(shape)}.")
    first = next(model.parameters(), torch.empty(0))
    try:
        with frozen(model):
            made = model(torch.zeros(2, *shape, device=first.device))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataFreeError(
            f"the network does not take one batch of images of shape {tuple(shape)} ({reason})."
        ) from None
    if not isinstance(made, torch.Tensor):
        raise DataFreeError(f"the network gives a {type(made).__name__}; it must give one tensor of scores.")
    if made.ndim not in (2, 4) or len(made) != 2 or made.dtype != torch.float32:
        raise DataFreeError(
            f"the network gives {made.dtype} of shape {tuple(made.shape)}; it must give float32, [N, K] or [N, K, H, W]."
        )
    if not made.isfinite().all():
        raise DataFreeError("the network gives NaN or infinity for images of zeros; it is damaged.")
    return made.shape


def check_called(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """DataFreeError, by name, where a layer is never called: attention, for one, reads the weight of a layer within it."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    called = {use.name for use in uses_of(model, layers, shape)}
    for name in layers:
        if name not in called:
            raise DataFreeError(
                f"layer '{name}' is not called for an image of zeros: it is unused, stands behind a condition, or what "
                "holds it reads its weight, as attention does; such a layer cannot be compressed."
            )
