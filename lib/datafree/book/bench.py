"""Speed and memory: what `make bench` measured, as a record, and the page that shows it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator
from pydantic import Field, ValidationError

from .. import files
from ..config import Strict, explain
from ..errors import DataFreeError
from . import plots
from .effects import line
from .markdown import page


def committed() -> Path:
    """Where the record on show lies."""
    return files.RECORDS / "bench.json"


Positive = Annotated[float, Field(gt=0)]


class Spread(Strict):
    """Middle and ends of repeated measurements."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(low=min(values), median=statistics.median(values), high=max(values))


class Sides(Strict):
    """One number of ours and one of theirs."""

    ours: float
    theirs: float


class Comparison(Strict):
    """Two ways to do one thing, timed in turns.

    seconds: of the processor, medians, of all the work.
    ratio: seconds of ours over theirs, pair by pair of neighbouring runs; below one is faster.
    share: of their work that was timed; the rest takes as long again, so it was not waited for.
    peak_mb: memory at the peak, above what was held before.
    difference: of the two results, relative to the largest value of theirs; None where they need not agree.
    points: accuracy in percent, where speed is not all that counts.
    """

    name: str
    group: str
    ours: str
    theirs: str
    seconds: Sides
    ratio: Spread
    repeats: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    peak_mb: Sides | None = None
    difference: float | None = None
    points: Sides | None = None
    note: str = ""


class Absent(Strict):
    """A comparison that could not be made on this machine, and why."""

    name: str
    group: str
    theirs: str
    reason: str


class Growth(Strict):
    """Seconds of one thing at rising sizes of another, and the slope of their logarithms."""

    name: str
    axis: str
    sizes: Annotated[list[float], Field(min_length=2)]
    seconds: list[Spread]
    slope: Spread


class Bench(Strict):
    """One run of the benchmarks, on one machine.

    seconds: on the clock. cpu_seconds: of all processes; far fewer where the machine had other work.
    """

    command: str
    written: str
    commit: str
    machine: str
    packages: dict[str, str]
    seconds: Positive
    cpu_seconds: Positive
    comparisons: list[Comparison]
    absent: list[Absent] = []
    growth: list[Growth] = []


def schema() -> str:
    """What a record holds, as a JSON Schema."""
    return json.dumps(Bench.model_json_schema(), indent=1) + "\n"


def read(path: Path) -> Bench:
    """The record at `path`; DataFreeError where it is missing or damaged."""
    try:
        return Bench.model_validate_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataFreeError(f"'{path}' cannot be read ({error.strerror}); make it with 'make bench'.") from None
    except ValidationError as error:
        raise DataFreeError(explain(error, f"'{path}'", Bench)) from None


# Words and figures ----------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Three digits in the unit that suits: 1.23 s, 45.6 ms, 789 µs."""
    factor, unit = next(((f, u) for f, u in ((1, "s"), (1e3, "ms")) if seconds * f >= 1), (1e6, "µs"))
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:.0f} {unit}"


def ratio_text(ratio: Spread) -> str:
    """The median, and the ends in brackets."""
    return f"{ratio.median:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"


def growth_text(row: Growth) -> str:
    """One curve of the figure in words: where it begins, where it ends, and its slope."""
    ends = f"{duration(row.seconds[0].median)} at {row.sizes[0]:g} to {duration(row.seconds[-1].median)} at {row.sizes[-1]:g}"
    return f"{row.name} over {row.axis}: {ends}, slope {row.slope.median:.2f}"


def growth_figure(rows: Sequence[Growth]) -> plt.Figure:
    """Seconds over size in logarithms: a panel an axis, a line a thing, ends of the repeats as bars."""
    kinds, names = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("axis", "name"))
    columns = min(3, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.4 * columns, 3.0 * lines), squeeze=False)
    for panel in axes.flat[len(kinds) :]:
        panel.set_visible(False)
    for panel, kind in zip(axes.flat, kinds):
        panel.set(xscale="log", yscale="log", xlabel=kind)
        for row in (row for row in rows if row.axis == kind):
            _draw(panel, row, names.index(row.name))
        panel.legend(fontsize=8)
    for panel in axes[:, 0]:
        panel.set_ylabel("CPU seconds")
    figure.tight_layout()
    return figure


def _draw(panel: plt.Axes, row: Growth, place: int) -> None:
    middle = [spread.median for spread in row.seconds]
    ends = [[m - s.low for m, s in zip(middle, row.seconds)], [s.high - m for m, s in zip(middle, row.seconds)]]
    label, color = f"{row.name}: {row.slope.median:.2f}", plots.PALETTE[place]
    panel.errorbar(row.sizes, middle, ends, marker="os^D"[place % 4], color=color, markersize=4, label=label)
    panel.set_xticks(row.sizes, [f"{size:g}" for size in row.sizes])
    panel.xaxis.set_minor_locator(NullLocator())


def write_page(folder: Path) -> str:
    """The page of the committed record; what it shows and links to goes into `folder`: figure, record and schema."""
    if not committed().is_file():
        return page("bench", bench=None)
    found = read(committed())
    texts = {"bench.json": committed().read_text(encoding="utf-8"), "bench.schema.json": schema()}
    for name, text in texts.items():
        files.write_atomically(folder / name, lambda p, text=text: p.write_text(text, encoding="utf-8"))
    if found.growth:
        figure = growth_figure(found.growth)
        files.write_atomically(folder / "bench.png", lambda p: figure.savefig(p, format="png", dpi=160))
        plt.close(figure)
    groups = {c.group: [o for o in found.comparisons if o.group == c.group] for c in found.comparisons}
    alt = line("; ".join(map(growth_text, found.growth)))
    return page("bench", bench=found, groups=groups, duration=duration, ratio=ratio_text, alt=alt)
