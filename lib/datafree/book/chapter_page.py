"""A chapter as a page: its executed notebook, with what the records and the ledger say about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataFreeError
from ..evidence.ledger import commit, place
from . import explore, facts, markdown, staging
from .chapter_text import chapter_text, level, number
from .figures import Numbered
from .front import front, method


def cost(record: dict[str, Any]) -> str:
    """What a run took: '1.2 minutes and 0.8 GiB'."""
    seconds, memory = record["seconds"], record["peak_memory_mb"] / 1024
    time = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.1f} minutes"
    return f"{time} and {memory:.1f} GiB of memory"


def page(
    notebook: dict[str, Any],
    record: dict[str, Any],
    found: Sequence[dict[str, Any]],
    claims: Sequence[dict[str, Any]],
    pictures: Path,
) -> dict[str, Any]:
    """The notebook of one chapter as Jupyter Book reads it.

    Args:
        notebook: as it was executed.
        record: of that run.
        found: all records on file, for the numbers in prose.
        claims: the rows of the ledger.
        pictures: the folder of pages' files; the chapter's pictures go into it.
    """
    name = record["notebook"]
    staged = staging.staged(notebook)
    numbered = Numbered(number(name), pictures / "figures", "../_static/figures")
    cells = [numbered.cell(cell) for cell in staged["cells"]]
    cells = staging.with_head(cells, hero=numbered.again(chapter_text(name).hero), **_head(name, record, found))
    cells = staging.with_exercises(cells, number(name), lambda label: level(name, label))
    if slider := explore.box(name, found) if name in explore.explorers() else "":
        cells = staging.before_closing(cells, markdown.page("explore", box=slider))
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = facts.filled(staging.text_of(cell), found, name, record, folder="")
    return staged | {"cells": [*cells, staging.markdown_cell(_audit(name, record, found, claims))]}


def _head(name: str, record: dict[str, Any], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    text = chapter_text(name)
    return {
        "number": number(name),
        "result": _result(text.result, found, name),
        "goals": text.goals,
        "needs": [{"notebook": need, "number": f"chapter {number(need)}"} for need in text.needs],
        "cost": cost(record),
        "command": f"datafree run {name}",
        "notebook": name,
        "diagram": next((method(p) for p, card in front().papers.items() if card.chapters[0] == name), ""),
    }


def _result(text: str, found: Sequence[dict[str, Any]], name: str) -> str:
    """The sentence with its numbers; nothing while a record that it draws on is still to be made."""
    try:
        return facts.filled(text, found, name, folder="")
    except DataFreeError:
        return ""


def _audit(name: str, record: dict[str, Any], found: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]]) -> str:
    files: dict[str, dict[int, str]] = {}
    for one in found:
        if one["notebook"] == name:
            files.setdefault(one["profile"], {})[one["seed"]] = place(one)
    return markdown.page(
        "chapter_audit",
        record=record,
        commit=commit(record),
        cost=cost(record),
        files=files,
        claims=[row for row in claims if (row["cell"] or "").partition("#")[0] == name],
        packages={k: v for k, v in record["provenance"]["packages"].items() if v},
    )
