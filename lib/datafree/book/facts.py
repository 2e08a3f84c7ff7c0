"""Numbers in prose, from the records on file: `{fact}` in the Markdown of a chapter becomes the number and says what it is.

    Calibrated on BNS images it keeps {fact}`top1/4w4a/BNS` % of the test images.

The path leads through a run's metrics, `.2f` behind a semicolon gives the form. The number is the mean over all seeds at
the scale nearest the paper that has three of them, or else that has any. Behind the path, `@NOTEBOOK` looks into another
chapter's records; `@run` takes the run that the page shows, for words under one of its tables or figures (the records,
where a short run has left that out); `@table` takes the scale nearest the paper that has any run, as a table of
`{recorded}` does.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataFreeError
from ..evidence.verdict import SCALES

FACT = re.compile(r"\{fact\}`(?P<path>[^`;@]+?)\s*(?:@(?P<notebook>\w+))?\s*(?:;\s*(?P<form>[^`]+?))?\s*`")


@dataclass(frozen=True)
class Fact:
    """A number of the records: mean over the seeds of one scale."""

    value: float
    scale: str
    seeds: int

    def described(self) -> str:
        runs = "one run" if self.seeds == 1 else f"mean of {self.seeds} runs"
        return f"{runs} at the scale '{self.scale}'"


def number(metrics: Any, path: str) -> float | None:
    """The number that a path leads to in nested metrics, or the mean of a list of numbers; None where it leads nowhere.

    Args:
        path: names and places, 'top1/4w4a/BNS' or 'by_share/0'; 'table/bits=4/ours' takes a row by one of its values.
    """
    for key in path.split("/"):
        if isinstance(metrics, Mapping) and key in metrics:
            metrics = metrics[key]
        elif isinstance(metrics, Sequence) and key.lstrip("-").isdigit() and int(key) < len(metrics):
            metrics = metrics[int(key)]
        elif (rows := _rows(metrics, key)) is not None:
            metrics = rows
        else:
            return None
    values = metrics if isinstance(metrics, list) else [metrics]
    good = values and all(isinstance(v, int | float) for v in values)
    return statistics.fmean(values) if good else None


def _rows(metrics: Any, key: str) -> Mapping | None:
    """The first row in which a column has a value, 'bits=4'."""
    column, _, value = key.partition("=")
    rows = metrics if isinstance(metrics, list) else []
    return next((row for row in rows if isinstance(row, Mapping) and str(row.get(column)) == value), None)


def fact(found: Sequence[Mapping[str, Any]], notebook: str, path: str, seeds: int = 3) -> Fact | None:
    """The number of a chapter at `path`, None if no run has it.

    Args:
        seeds: that the scale nearest the paper must have; where none has so many, it is the nearest that has any.
    """
    known = []
    for scale in SCALES:
        mine = [r for r in found if r["notebook"] == notebook and r["profile"] == scale]
        values = [value for record in mine if (value := number(record["metrics"], path)) is not None]
        if values:
            known.append(Fact(statistics.fmean(values), scale, len(values)))
    return next((one for one in known if one.seeds >= seeds), known[0] if known else None)


def _of_run(record: Mapping[str, Any] | None, path: str) -> Fact | None:
    value = number(record["metrics"], path) if record else None
    return None if value is None else Fact(value, record["profile"], 1)


AUDIT = "#audit-this-chapter"
"""Where a chapter's page lists its records."""


def filled(
    text: str, found: Sequence[Mapping[str, Any]], notebook: str, record: Mapping[str, Any] | None = None,
    folder: str | None = None,
) -> str:  # fmt: skip
    """`text` with each `{fact}` replaced by its number, which tells on hovering what it is the mean of.

    Args:
        record: of the run that the page shows.
        folder: of the chapters' pages, for links from the numbers to the lists of records; '' for such a page itself.
            Without it numbers are no links.
    Raises:
        DataFreeError: no record has a number at that path.
    """

    def shown(match: re.Match) -> str:
        where, path = match["notebook"] or notebook, match["path"]
        if where == "run":
            where, known = notebook, _of_run(record, path) or fact(found, notebook, path)
        elif where == "table":
            where, known = notebook, fact(found, notebook, path, seeds=1)
        else:
            known = fact(found, where, path)
        if known is None:
            raise DataFreeError(
                f"{notebook}: no record of {where} has a number at '{path}'; mend the path, or make the record."
            )
        value = format(known.value, match["form"] or ".1f")
        said = f'class="fact" title="{where}, {path}: {known.described()}"'
        if folder is None:
            return f"<span {said}>{value}</span>"
        page = "" if (folder, where) == ("", notebook) else f"{folder}{where}.html"
        return f'<a {said} href="{page}{AUDIT}">{value}</a>'

    return FACT.sub(shown, text)
