"""The register of methods: each way to compress a network registers itself where it is defined.

    @method("udfc", paper="UDFC", about="prune channels, quantise weights", structure=thinner)
    def compress(model: nn.Module, config: UDFC, images: ImageSet | None = None) -> Result: ...

Everything else is read from the function: its configuration from the annotation of `config`, and from the names of its
other parameters whether it takes images and the shape of one. `datafree.api` imports all papers, which fills METHODS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from torch import nn

from ..config import Strict, suggestion
from ..errors import DataFreeError


class Result(NamedTuple):
    """The compressed network and what was done to it, at which cost."""

    model: nn.Module
    report: dict


@dataclass(frozen=True)
class Method:
    """One way to compress a network.

    Attributes:
        name: on the command line and in reports.
        paper: its title, or how it is called.
        about: the method in a line.
        config: the class of its settings; `datafree.compress` knows the method by it.
        compress: (model, config, and `images` and `shape` if it takes them) -> Result.
        structure: (model, and `config`, `report` and `state` if it takes them) -> a network that the state dict of a
            compressed one fits into.
        needs_batchnorm: whether a network without BatchNorm is refused where no images are given.
    """

    name: str
    paper: str
    about: str
    config: type[Strict]
    compress: Callable[..., Result]
    structure: Callable[..., nn.Module]
    needs_batchnorm: Callable[[Any], bool]

    @property
    def takes_images(self) -> bool:
        """Whether images can be given to it."""
        return "images" in inspect.signature(self.compress).parameters


METHODS: dict[str, Method] = {}
"""Name -> method; filled by the decorator `method`."""


def method(
    name: str,
    *,
    paper: str,
    about: str,
    structure: Callable[..., nn.Module],
    needs_batchnorm: bool | Callable[[Any], bool] = False,
) -> Callable:
    """Put the function below into METHODS and leave it as it is; for the arguments see `Method`."""

    def register(compress: Callable[..., Result]) -> Callable[..., Result]:
        config = get_type_hints(compress)["config"]
        taken = [m for m in METHODS.values() if name == m.name or config is m.config]
        if taken and _place(taken[0].compress) != _place(
            compress
        ):  # a module that is imported again may replace its own
            raise ValueError(f"the method {taken[0].name} of {taken[0].config.__name__} is registered twice")
        needs = needs_batchnorm if callable(needs_batchnorm) else lambda config: needs_batchnorm
        METHODS[name] = Method(name, paper, about, config, compress, structure, needs)
        return compress

    return register


def _place(function: Callable) -> tuple[str, str]:
    return function.__module__, function.__qualname__


def fitting(function: Callable, **offered: Any) -> dict[str, Any]:
    """Those of the offered arguments that `function` has parameters for."""
    return {name: value for name, value in offered.items() if name in inspect.signature(function).parameters}


def method_named(name: str) -> Method:
    """The method of that name; DataFreeError with the names there are."""
    if name not in METHODS:
        raise DataFreeError(f"method '{name}' is not known{suggestion(name, METHODS)}; known: {', '.join(METHODS)}.")
    return METHODS[name]


def method_of(config: Strict) -> Method:
    """The method whose settings these are; DataFreeError with the configurations there are."""
    found = [m for m in METHODS.values() if m.config is type(config)]
    if not found:
        known = ", ".join(m.config.__name__ for m in METHODS.values())
        raise DataFreeError(f"compress got a {type(config).__name__}; give one of the configurations {known}.")
    return found[0]
