"""Diagrams of steps, drawn as SVG that takes its ink from the page."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

WIDTH, HEIGHT, GAP = 170, 78, 34
"""Of a box, and between two, in units of the drawing."""


def flow(steps: Sequence[Sequence[str]], label: str, columns: int = 2) -> str:
    """Boxes in rows that are read like a ploughed field: to the right, one down, to the left.

    Args:
        steps: name of a step, and what happens in it.
        label: what the diagram shows, for those who do not see it.
    """
    rows = -(-len(steps) // columns)
    size = columns * (WIDTH + GAP) - GAP + 4, rows * (HEIGHT + GAP) - GAP + 4
    places = [_place(k, columns) for k in range(len(steps))]
    boxes = "".join(_box(*place, *step) for place, step in zip(places, steps))
    arrows = "".join(_arrow(a, b) for a, b in zip(places, places[1:]))
    said = html.escape(f"{label}: " + "; ".join(": ".join(step) for step in steps), quote=True)
    return (
        f'<svg class="flow" viewBox="-2 -2 {size[0]} {size[1]}" style="max-width: {round(1.15 * size[0])}px" '
        f'role="img" aria-label="{said}">{boxes}{arrows}</svg>'
    )


def _place(k: int, columns: int) -> tuple[int, int]:
    """Upper left corner of box k."""
    row, column = divmod(k, columns)
    column = columns - 1 - column if row % 2 else column
    return column * (WIDTH + GAP), row * (HEIGHT + GAP)


def _box(x: int, y: int, name: str, detail: str) -> str:
    lines = textwrap.wrap(detail, 22)
    middle = x + WIDTH // 2
    top = y + HEIGHT / 2 - 8 * len(lines) + 4
    texts = [f'<text class="name" x="{middle}" y="{top:g}">{html.escape(name)}</text>']
    texts += [
        f'<text x="{middle}" y="{top + 17 * (k + 1):g}">{html.escape(line)}</text>' for k, line in enumerate(lines)
    ]
    return f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{"".join(texts)}'


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """From the edge of one box to the facing edge of the next."""
    (x, y), (to_x, to_y) = start, end
    if x == to_x:
        middle = x + WIDTH // 2
        tip = to_y - 3
        return f'<path d="M{middle} {y + HEIGHT + 3}V{tip}m-5 -7l5 7l5 -7"/>'
    height = y + HEIGHT // 2
    right = to_x > x
    first, tip, back = (x + WIDTH + 3, to_x - 3, -7) if right else (x - 3, to_x + WIDTH + 3, 7)
    return f'<path d="M{first} {height}H{tip}m{back} -5l{-back} 5l{back} 5"/>'
