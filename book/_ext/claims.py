"""Claim boxes, drawn from the ledger when pages are rendered: `:::{claim} kw-c17` becomes one line that opens.

The chapter does not judge. The box reads ledger.json, which the build puts beside the sources, so a changed criterion
or a new record changes the pages and no chapter runs again.
"""

import functools
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from jinja2 import Environment, FileSystemLoader

HERE = Path(__file__).parent
WIDTH, HEIGHT = 160, 16
"""Of the picture of an interval, in pixels."""


@functools.cache
def ledger(path, changed):
    """Claim id -> its row; read again where the file has changed."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return {row["id"]: row for row in content["claims"] + content["ours"]}


def picture(effect):
    """Ends and dot of an interval on a line with zero in its middle, as positions in pixels; None where there is none."""
    if not effect or effect["low"] is None or effect["high"] is None:
        return None
    reach = max(abs(effect["low"]), abs(effect["high"])) or 1.0
    at = lambda x: round(WIDTH / 2 * (1 + 0.95 * x / reach), 1)  # noqa: E731
    return {"low": at(effect["low"]), "mean": at(effect["mean"]), "high": at(effect["high"]), "width": WIDTH, "height": HEIGHT}


def number(x):
    """Three digits, or an infinity where one run leaves the end open."""
    return "∞" if x is None else f"{x:+.3g}"


@functools.cache
def template():
    pages = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"picture": picture, "number": number}
    return pages.get_template("claim.html.j2")


class Claim(Directive):
    """One line with the state of a claim; opened, its effect, criterion, scales and records."""

    required_arguments = 1

    def run(self):
        env = self.state.document.settings.env
        path = Path(env.srcdir) / "ledger.json"
        env.note_dependency(str(path))
        rows = ledger(str(path), path.stat().st_mtime_ns)
        name = self.arguments[0]
        if name not in rows:
            return [self.state.document.reporter.warning(f"claim '{name}' is not in the ledger", line=self.lineno)]
        up = "../" * env.docname.count("/")
        return [nodes.raw("", template().render(row=rows[name], up=up), format="html")]


def setup(app):
    app.add_directive("claim", Claim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
