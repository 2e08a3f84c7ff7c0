"""What chapters show besides figures: the source of a function, and tables."""

from __future__ import annotations

import html
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from IPython.display import Markdown, display

from .. import files


def source(*functions) -> None:
    """The code that computes an equation, exactly as it runs, with its file and line."""
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
        return f"{np.mean(value):.2f} ± {np.std(value, ddof=1):.2f}" if len(value) > 1 else cell(value[0])
    return str(value)


def table(rows: Sequence[Mapping], caption: str) -> None:
    """A table with the keys of the first row as heads; lists are shown as mean and standard deviation."""
    heads = list(rows[0])
    head = "".join(f"<th scope='col'>{html.escape(h)}</th>" for h in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell(row.get(h)))}</td>" for h in heads) + "</tr>" for row in rows
    )
    table = f"<table class='table'><caption>{html.escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    plain = "\n".join(" | ".join(cell(row.get(h)) for h in heads) for row in rows)
    display({"text/html": table, "text/plain": f"{caption}\n{plain}"}, raw=True)
