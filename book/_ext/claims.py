"""Claim boxes, drawn from the ledger when pages are rendered: `:::{claim} kw-c17` becomes one line that opens.

The chapter does not judge. The box reads ledger.json, which the build puts beside the sources, so a changed criterion
or a new record changes the pages and no chapter runs again.
"""

import functools
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

from datafree.book import effects


@functools.cache
def ledger(path, changed):
    """Claim id -> its row; read again where the file has changed."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    return {row["id"]: row for row in content["claims"] + content["ours"]}


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
        template = effects.template("claim.html.j2", Path(__file__).parent)
        box = nodes.container()  # carries the ids of the targets before it; raw HTML would lose them
        box += nodes.raw("", template.render(row=rows[name], up=up), format="html")
        return [box]


def setup(app):
    app.add_directive("claim", Claim)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
