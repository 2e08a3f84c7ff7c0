"""Recorded points under a slider: a drawing that needs no script, and a table of the values."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .. import files
from ..config import Strict, validate
from . import effects, facts

PLACE = files.ROOT / "book" / "explore.yaml"
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 50, 160, 14, 34
"""Of the drawing, and its margins; names of the curves stand at the right."""

COLOURS = 6
"""How many colours curves have (book.css)."""

DISTANCE = 17
"""Between the names of two curves."""


class Explorer(Strict):
    """Curves over settings. path: where a value is in the metrics, with {setting}, {k} and {series}."""

    title: str
    slider: str
    unit: str
    settings: list[str]
    series: list[str]
    path: str


@functools.cache
def explorers() -> dict[str, Explorer]:
    """Chapter -> what can be explored in it."""
    content = files.read_yaml(PLACE)
    return {name: validate(Explorer, entry, f"'{PLACE.name}', {name}") for name, entry in content.items()}


def values(notebook: str, found: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, float]], str]:
    """Series -> setting -> value, all from one scale (the one that has most of them), and what the values are.

    Settings that some series lacks are left out.
    """
    one = explorers()[notebook]
    known = {
        (series, setting): fact
        for series in one.series
        for k, setting in enumerate(one.settings)
        if (fact := facts.fact(found, notebook, one.path.format(series=series, setting=setting, k=k)))
    }
    if not known:
        return {}, ""
    scale = Counter(fact.scale for fact in known.values()).most_common(1)[0][0]
    mine = {key: fact for key, fact in known.items() if fact.scale == scale}
    series = [s for s in one.series if any(key[0] == s for key in mine)]
    settings = [x for x in one.settings if all((s, x) in mine for s in series)]
    table = {s: {x: mine[s, x].value for x in settings} for s in series}
    return table, next(iter(mine.values())).described()


def box(notebook: str, found: Sequence[Mapping[str, Any]]) -> str:
    """The figure as HTML; nothing where records have fewer than two settings."""
    one = explorers()[notebook]
    table, described = values(notebook, found)
    settings = list(next(iter(table.values()), {}))
    if len(settings) < 2:
        return ""
    curves = [_curve(k, name, list(row.values()), table) for k, (name, row) in enumerate(table.items())]
    for curve, y in zip(curves, _apart([curve["points"][-1][1] for curve in curves])):
        curve["label"] = y
    return effects.template("explore.html.j2").render(
        one=one, settings=settings, curves=curves, described=described, xs=_places(len(settings)),
        ticks=[(_height(t, table), t) for t in _ticks(table)], frame=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
    )  # fmt: skip


def _curve(k: int, name: str, row: list[float], table: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    points = [(x, _height(value, table)) for x, value in zip(_places(len(row)), row)]
    return {"name": name, "values": row, "points": points, "colour": k % COLOURS}


def _places(count: int) -> list[float]:
    """Where settings stand from left to right."""
    return [round(LEFT + k * (WIDTH - LEFT - RIGHT) / (count - 1), 1) for k in range(count)]


def _limits(table: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    all_values = [value for row in table.values() for value in row.values()]
    return min(all_values), max(all_values)


def _height(value: float, table: Mapping[str, Mapping[str, float]]) -> float:
    low, high = _limits(table)
    share = (value - low) / ((high - low) or 1)
    return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _ticks(table: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Multiples of 20, 10, 5, 2 or 1 between the limits: the widest step that gives at least three."""
    low, high = _limits(table)
    for step in (20, 10, 5, 2, 1):
        found = [step * k for k in range(-int(-low // step), int(high // step) + 1)]
        if len(found) >= 3:
            return found
    return [low, high]


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights moved so far apart that names do not cover each other, in the same order."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    placed = dict.fromkeys(order, 0.0)
    last = -float("inf")
    for k in order:
        last = placed[k] = max(heights[k], last + DISTANCE)
    beyond = max(0.0, last - (HEIGHT - BOTTOM))
    return [round(placed[k] - beyond, 1) for k in range(len(heights))]
