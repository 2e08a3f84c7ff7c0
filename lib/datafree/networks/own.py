"""A network of the reader's own: a function in a file that builds it."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from torch import nn

from .. import files
from ..config import device_named
from ..errors import DataFreeError
from .blocks import Normalize
from .weights import load_state, read_state
from .zoo import ARCHITECTURES


def is_own(name: str) -> bool:
    """Whether `name` is FILE.py:FUNCTION rather than a network of the zoo."""
    return ".py:" in name


def numbers(text: str) -> tuple[float, ...] | None:
    """A number for each channel from text such as '0.485 0.456 0.406'; None where it is empty."""
    try:
        return tuple(map(float, text.replace(",", " ").split())) or None
    except ValueError:
        raise DataFreeError(f"'{text}' is not a number for each channel; write them like '0.49 0.48 0.45'.") from None


def shape_of(text: str) -> tuple[int, int, int]:
    """Channels, rows and columns of an image from text such as '3x224x224'."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise DataFreeError(f"'{text}' is no shape of an image; write channels, rows and columns like 3x224x224.")
    return tuple(map(int, parts))


def built(name: str) -> nn.Module:
    """What FUNCTION of 'FILE.py:FUNCTION' returns; the file is run."""
    place, _, function = name.rpartition(":")
    if not Path(place).is_file():
        raise DataFreeError(f"the file '{place}' does not exist; give FILE.py:FUNCTION.")
    files.READ[Path(place).name] = hashlib.sha256(Path(place).read_bytes()).hexdigest()
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        model = getattr(module, function)()
    except AttributeError as error:
        raise DataFreeError(f"'{name}' cannot be built ({error}).") from None
    except Exception as error:
        raise DataFreeError(f"'{name}' cannot be built ({type(error).__name__}: {error}).") from None
    if not isinstance(model, nn.Module):
        raise DataFreeError(f"'{name}' gives a {type(model).__name__}; it must give a torch.nn.Module.")
    return model


def normalizes(model: nn.Module) -> bool:
    """Whether the network has a Normalize layer."""
    return any(isinstance(module, Normalize) for module in model.modules())


def normalized(model: nn.Module, mean=None, std=None) -> nn.Module:
    """`model` behind the normalisation of its input; a network that has none and is given none is told how to add it."""
    has = normalizes(model)
    given = mean is not None and std is not None
    if has and (mean is not None or std is not None):
        raise DataFreeError("the network normalises its input already; leave out mean and std.")
    if has:
        return model
    if not given or len(mean) != len(std) or min(std) <= 0:
        raise DataFreeError(
            f"{type(model).__name__} does not normalise its input, so the moments of its inputs are unknown; give the "
            "mean and std it was trained with (--mean, --std, a number a channel), or build it as "
            "nn.Sequential(datafree.networks.blocks.Normalize(mean, std), network)."
        )
    return nn.Sequential(Normalize(mean, std), model)


def load_own(name: str, weights: str | Path | None, *, device: str = "cpu", mean=None, std=None) -> nn.Module:
    """The network 'FILE.py:FUNCTION' in evaluation mode, with its weights, on `device`.

    Args:
        weights: a state dict of what FUNCTION returns; None keeps the values that it was built with.
        mean, std: of the input normalisation, a number a channel, where the network has no Normalize layer.
    """
    model, place = built(name), device_named(device)
    if weights is not None:
        load_state(model, read_state(weights), f"'{weights}'")
    return normalized(model, mean, std).eval().to(place)


def join_zoo(name: str, mean=None, std=None) -> None:
    """Let `build_network` and all that calls it know 'FILE.py:FUNCTION', which settles its classes itself."""
    ARCHITECTURES[name] = lambda **_: normalized(built(name), mean, std)
