"""Effects with their intervals, as text and as a small picture: for the ledger's page and the boxes of claims."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

HERE = Path(__file__).parent
WIDTH, HEIGHT = 120, 16
"""Of the picture of an interval, in pixels."""


def picture(effect: dict[str, Any] | None) -> dict[str, float] | None:
    """Ends and dot of an interval on a line with zero in its middle, in pixels; None where an end is open."""
    if not effect or effect["low"] is None or effect["high"] is None:
        return None
    reach = max(abs(effect["low"]), abs(effect["high"]), abs(effect["mean"])) or 1.0
    at = {end: round(WIDTH / 2 * (1 + 0.95 * effect[end] / reach), 1) for end in ("low", "mean", "high")}
    return at | {"width": WIDTH, "height": HEIGHT}


def number(x: float) -> str:
    """Three digits and the sign."""
    return f"{x:+.3g}"


def described(effect: dict[str, Any] | None) -> str:
    """Mean, interval and unit; an end that one run leaves open is infinite."""
    if not effect:
        return "–"
    mean, low, high, unit = (effect[key] for key in ("mean", "low", "high", "unit"))
    if low is None and high is None:
        return f"{number(mean)} {unit} (no interval)"
    ends = "−∞" if low is None else number(low), "+∞" if high is None else number(high)
    return f"{number(mean)} [{ends[0]}, {ends[1]}] {unit}"


def line(text: Any) -> str:
    """Text on one line."""
    return " ".join(str(text).split())


@functools.cache
def template(name: str, *folders: Path) -> Template:
    """A template of HTML, which escapes what it is given; it finds the macros of effects.html.j2."""
    pages = Environment(
        loader=FileSystemLoader([*folders, HERE]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"picture": picture, "number": number, "effect": described, "line": line}
    return pages.get_template(name)
