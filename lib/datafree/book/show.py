"""What chapters show besides figures: the source of a function, and tables."""

from __future__ import annotations

import html
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from .. import files

Table = Styler.from_custom_template(Path(__file__).parent, html_table="table.html.j2")
"""pandas' styled table with our template: heads say to screen readers what they are the heads of."""


def source(*functions) -> None:
    """The code that computes an equation, exactly as it runs, with its file and line. Pages draw it anew from the library."""
    for function in map(inspect.unwrap, functions):
        lines, number = inspect.getsourcelines(function)
        path = Path(inspect.getsourcefile(function)).relative_to(files.ROOT)
        display(Markdown(f"`{path.as_posix()}`, line {number}\n\n```python\n{''.join(lines).rstrip()}\n```"))


def cell(value) -> str:
    """How a value stands in a table: floats with two decimals, None as a dash, several values as mean and spread."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        mean, deviation = float(np.mean(value)), float(np.std(value, ddof=1)) if len(value) > 1 else None
        return cell(mean) if deviation is None else f"{cell(mean)} ± {cell(deviation)}"
    return str(value)


def table(rows: Sequence[Mapping], caption: str) -> None:
    """A table with the keys of the first row as heads; lists are shown as mean and standard deviation."""
    heads = list(rows[0])
    values = [[row.get(head) for head in heads] for row in rows]
    plain = "\n".join(" | ".join(map(cell, line)) for line in values)
    display({"text/html": html_table(heads, values, caption), "text/plain": f"{caption}\n{plain}"}, raw=True)


def html_table(heads: Sequence[str], values: Sequence[Sequence], caption: str) -> str:
    frame = pd.DataFrame(values, columns=heads, dtype=object)  # dtype object: None stays None, lists stay lists
    style = Table(frame, cell_ids=False).format(lambda value: html.escape(cell(value))).hide(axis="index")
    style = style.format_index(html.escape, axis="columns").set_caption(html.escape(caption))
    return style.set_table_attributes("class='table'").to_html(exclude_styles=True)
