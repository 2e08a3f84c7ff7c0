"""Effects with their intervals, as text and as a small picture: for the ledger's page and the boxes of claims."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

HERE = Path(__file__).parent
WIDTH, HEIGHT = 120, 16
"""Of the picture of an interval, in pixels."""


def reach(effects: Iterable[dict[str, Any]]) -> float:
    """How far from zero the intervals go, those with an open end aside."""
    ends = [abs(e[end]) for e in effects if _closed(e) for end in ("low", "high", "mean")]
    return max(ends, default=0.0) or 1.0


def _closed(effect: dict[str, Any] | None) -> bool:
    return bool(effect) and effect["low"] is not None and effect["high"] is not None


def picture(effect: dict[str, Any] | None, reach: float) -> dict[str, float] | None:
    """Ends and dot of an interval on a line with zero in its middle, in pixels; None where an end is open.

    Args:
        reach: the number at the right end of the line.
    """
    if not _closed(effect):
        return None
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
    if low == high == mean:  # an identity
        return f"{number(mean)} {unit}"
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
    pages.filters |= {"picture": picture, "reach": reach, "number": number, "effect": described, "line": line}
    return pages.get_template(name)
