"""Strict parameters: the base of every configuration, and values written as text.

Values come from people, YAML files and papermill, so unknown names, wrong types, NaN and out-of-range values are refused
with one sentence before any work is done.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

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


def triple(text: str) -> tuple[float, ...] | None:
    """Three numbers from a parameter such as '0.485 0.456 0.406'; None where it is empty."""
    return tuple(float(part) for part in text.replace(",", " ").split()) or None


class Strict(BaseModel):
    """Frozen, typed, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True)


def explain(error: ValidationError, what: str) -> str:
    """Turn pydantic's report into one sentence that says which parameter, what was given, what is expected."""
    parts = []
    for e in error.errors():
        name = ".".join(str(p) for p in e["loc"]) or "value"
        given = "" if e["type"] in ("missing", "extra_forbidden") else f" (given: {e['input']!r})"
        parts.append(f"parameter '{name}': {e['msg'][0].lower()}{e['msg'][1:]}{given}")
    return f"{what}: " + "; ".join(parts) + "."


def validate(cls: type[Strict], values: dict[str, Any], what: str | None = None) -> Any:
    """Make `cls` from `values`; raise DataFreeError with a readable sentence where they do not fit."""
    try:
        return cls(**values)
    except ValidationError as error:
        known = ", ".join(cls.model_fields)
        text = explain(error, what or cls.__name__)
        if "extra inputs" in text:
            text += f" Known parameters: {known}."
        raise DataFreeError(text) from None


def schema(name: str, **fields: Any) -> type[Strict]:
    """A strict model made on the spot, for the parameters cell of a notebook: `seed=(int, Field(ge=0))`."""
    return create_model(name, __base__=Strict, **fields)


def suggestion(name: str, known: Any) -> str:
    """' (did you mean ...?)' with the nearest of the known names, or nothing."""
    match = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def _read_text(cls: type[Strict], name: str, value: Any) -> Any:
    """Text from the command line as the value it stands for; text fields keep it as it is."""
    if not isinstance(value, str) or name not in cls.model_fields:
        return value
    kind = cls.model_fields[name].annotation
    is_text = kind is str or (get_origin(kind) is Literal and all(isinstance(a, str) for a in get_args(kind)))
    return value if is_text else scalar(value)
