"""Strict parameters: the base of every configuration, and the profiles of the notebooks.

Values come from people, YAML files and papermill, so unknown names, wrong types, NaN and
out-of-range values are refused with one sentence before any work is done.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .errors import DataFreeError


class Strict(BaseModel):
    """Frozen, typed, no unknown fields, no NaN or infinity."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_default=True
    )


def explain(error: ValidationError, what: str) -> str:
    """Turn pydantic's report into one sentence that says which parameter, what was given, what is expected."""
    parts = []
    for e in error.errors():
        name = ".".join(str(p) for p in e["loc"]) or "value"
        given = "" if e["type"] in ("missing", "extra_forbidden") else f" (given: {e['input']!r})"
        parts.append(f"parameter '{name}': {e['msg'][0].lower()}{e['msg'][1:]}{given}")
    return f"{what}: " + "; ".join(parts) + "."


def build(cls: type[Strict], values: dict[str, Any], what: str | None = None) -> Any:
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
