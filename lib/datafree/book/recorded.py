"""Tables of what the runs on record measured, for a chapter that measures less where it is only demonstrated.

    :::{recorded} recipe
    :head: images, recipe
    :value: top-1 (%)
    :::

The path leads through a run's metrics, as in `{fact}`. Each entry there is a row; where entries hold names of their own,
these are the columns. Values are means over the runs at the scale nearest the paper, with their standard deviation.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..evidence.verdict import SCALES
from . import show

NONE = "No run on record has measured this yet."

WORDS = {"j_kl": "J_KL (nats)", "top1": "top-1 (%)"}
"""Names of metrics -> titles of columns."""


def rows(metrics: Any, path: str, head: str, value: str) -> list[dict[str, Any]] | None:
    """What lies at 'name/name' in one run's metrics, as rows of a table; None where there is nothing."""
    for key in path.split("/"):
        if not isinstance(metrics, Mapping) or key not in metrics:
            return None
        metrics = metrics[key]
    return [{head: name} | _columns(entry, value) for name, entry in metrics.items()]


def _columns(entry: Any, value: str) -> dict[str, float | None]:
    if isinstance(entry, Mapping):
        return {name: _number(one) for name, one in entry.items()}
    return {value: _number(entry)}


def _number(value: Any) -> float | None:
    """A number, the mean of repetitions, or None for what a run left out."""
    values = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    return statistics.fmean(values) if values else None


def joined(tables: Sequence[Sequence[Mapping[str, Any]]], head: str) -> list[dict[str, Any]]:
    """The rows of several runs as one table: a list of the runs' values in each cell, by the names in its first column."""
    names = list(dict.fromkeys(row[head] for table in tables for row in table))
    columns = list(dict.fromkeys(name for table in tables for row in table for name in row if name != head))
    places = [{row[head]: row for row in table} for table in tables]
    found = []
    for name in names:
        values = {c: [p[name][c] for p in places if p.get(name, {}).get(c) is not None] for c in columns}
        found.append({head: name} | {c: v or None for c, v in values.items()})
    return found


def table(
    found: Sequence[Mapping[str, Any]], notebook: str, path: str, head: str, value: str, caption: str = "",
    profile: str = "",
) -> str:  # fmt: skip
    """The HTML of the table, or a sentence where no run has measured it.

    Args:
        found: records, as `evidence.record.read_all` gives them.
        path: of the metric. head: title of the first column. value: title of a single column of numbers.
        profile: of the runs; default: the one nearest the paper that has measured it.
    """
    for name in [profile] if profile else SCALES:
        mine = [r["metrics"] for r in found if (r["notebook"], r["profile"]) == (notebook, name)]
        tables = [table for metrics in mine if (table := rows(metrics, path, head, value))]
        if tables:
            runs = "one run" if len(tables) == 1 else f"mean ± deviation of {len(tables)} runs"
            lines = joined(tables, head)
            heads = list(lines[0])
            said = f"{caption} On record, profile {name}: {runs}.".strip()
            return show.html_table([WORDS.get(h, h) for h in heads], [[line[h] for h in heads] for line in lines], said)
    return f"<p>{html.escape(caption)} {NONE}</p>"
