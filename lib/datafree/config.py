"""Strict parameters: the base of every configuration, and values written as text.

Values come from people, YAML files and papermill, so unknown names, wrong types, NaN and out-of-range values are refused
with one sentence before any work is done.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import DataFreeError

_CORE = (
    (re.compile(r"(?i:true)"), lambda text: True),
    (re.compile(r"(?i:false)"), lambda text: False),
    (re.compile(r"(?i:null|~|)"), lambda text: None),
    (re.compile(r"[-+]?\d{1,30}"), int),
    (re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"), float),
    (re.compile(r"(?i:[-+]?\.?(?:inf|infinity|nan))"), lambda text: float(text.replace(".", ""))),
)


def scalar(text: str) -> bool | int | float | str | None:
    """What `text` means by the scalars of YAML 1.2: true, null, 3, 1e-3, .nan; anything else is text."""
    for pattern, convert in _CORE:
        if pattern.fullmatch(text):
            return convert(text)
    return text


def triple(text: str) -> tuple[float, float, float] | None:
    """Three numbers from text such as '0.485 0.456 0.406', with spaces or commas; None where it is empty."""
    parts = text.replace(",", " ").split()
    try:
        numbers = tuple(map(float, parts))
    except ValueError:
        numbers = ()
    if parts and len(numbers) != 3:
        raise DataFreeError(f"'{text}' was given in place of three numbers; write them like '0.49 0.48 0.45'.")
    return numbers or None


Precision = Literal["float32", "bf16", "auto"]
"""Arithmetic of a network's passes; auto: bf16 where the processor has it."""

Device = Literal["auto", "cpu", "cuda", "mps"]
"""Where a network and its images lie; auto: a CUDA card where there is one, else the processor.

mps has to be asked for: it lacks double precision, which closed-form solutions and some ranges need.
"""


def device_named(name: Any):
    """The torch device of that name (a `Device`, or one that torch knows, as 'cuda:1'); DataFreeError where it is not there."""
    import torch

    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or not there.get(device.type, True):
        known = ", ".join(("auto", *(kind for kind, found in there.items() if found)))
        raise DataFreeError(f"the device '{name}' is not there; this machine has {known}.")
    return device


class Strict(BaseModel):
    """Frozen, typed, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


def suggestion(name: str, known: Any) -> str:
    """' (did you mean ...?)' with the nearest of the known names, or nothing."""
    match = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def explain(error: ValidationError, what: str, cls: type[Strict]) -> str:
    """Turn pydantic's report into one sentence that says which parameter, what was given, what is expected."""
    parts, known = [], ""
    for e in error.errors():
        name = ".".join(str(p) for p in e["loc"]) or "value"
        if e["type"] == "extra_forbidden":
            fields = _fields(cls, e["loc"][:-1])
            parts.append(f"parameter '{name}': it is not known{suggestion(e['loc'][-1], fields)}")
            known = f" Known parameters: {', '.join(fields)}."
        else:
            given = "" if e["type"] == "missing" else f" (given: {e['input']!r})"
            parts.append(f"parameter '{name}': {e['msg'][0].lower()}{e['msg'][1:]}{given}")
    return f"{what}: " + "; ".join(parts) + "." + known


def _fields(cls: type[Strict] | None, groups: Iterable[Any]) -> list[str]:
    """The names that can be set in the group at that place."""
    for group in groups:
        cls = group_of(cls, group)
    return list(cls.model_fields) if cls else []


def validate(cls: type[Strict], values: dict[str, Any], what: str | None = None) -> Any:
    """Make `cls` from `values`; raise DataFreeError with a readable sentence where they do not fit."""
    try:
        return cls(**values)
    except ValidationError as error:
        raise DataFreeError(explain(error, what or cls.__name__, cls)) from None


# Parameters as people type them ---------------------------------------------------------------------------------------


def pairs(given: Iterable[str]) -> dict[str, str]:
    """Split NAME=VALUE; DataFreeError for anything else and for a name given twice."""
    values: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DataFreeError(f"'-p {pair}' was not understood; write '-p NAME=VALUE', for instance '-p steps=100'.")
        if name in values:
            raise DataFreeError(f"the parameter '{name}' was given twice; give it once.")
        values[name] = value
    return values


def from_text(cls: type[Strict], values: dict[str, Any]) -> dict[str, Any]:
    """What the texts in `values` mean to `cls`; whatever is no text stays as it is.

    A dot leads into a group: {"recovery.steps": "100"} becomes {"recovery": {"steps": 100}}. Names that `cls` does not
    know are kept, so that `validate` can name them.
    """
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *groups, leaf = name.split(".")
        place, kind = tree, cls
        for group in groups:
            place = place.setdefault(group, {}) if isinstance(place, dict) else None
            kind = group_of(kind, group)
        if not isinstance(place, dict) or isinstance(place.get(leaf), dict):
            raise DataFreeError(f"'{name}' is given both as a value and as a group; give one of them.")
        place[leaf] = _meaning(value, _kinds(kind, leaf)) if isinstance(value, str) else value
    return tree


def group_of(cls: type[Strict] | None, name: str) -> type[Strict] | None:
    """The class of the settings that the field `name` holds, also where it may be None; None for any other field."""
    return next((k for k in _kinds(cls, name) if isinstance(k, type) and issubclass(k, Strict)), None)


def _kinds(cls: type[Strict] | None, name: str) -> list[Any]:
    """The types that a field allows, without their bounds: `Annotated[int, ...] | None` gives int and NoneType."""
    field = cls.model_fields.get(name) if cls else None
    return list(_alternatives(field.annotation)) if field else []


def _alternatives(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _alternatives(part)
    else:
        yield kind


def _meaning(text: str, kinds: list[Any]) -> Any:
    """Text fields keep their text; three numbers become a tuple; anything else is a scalar of YAML."""
    if NoneType in kinds and scalar(text) is None:
        return None
    if any(get_origin(kind) is tuple for kind in kinds):
        return triple(text)
    return text if any(map(_is_text, kinds)) else scalar(text)


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(a, str) for a in get_args(kind)))
