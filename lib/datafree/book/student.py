"""Notebooks to hand out: the chapters without the solutions of their exercises, and the list of these for who teaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..evidence.notebook_text import notebooks
from . import markdown, staging
from .chapter_text import level, number

PLACE = files.BUILD / "student"
SOLUTION = "solution"
"""Tag of a code cell that solves an exercise."""


class Exercise(NamedTuple):
    """An exercise of a chapter, with its solution in Markdown."""

    number: str
    label: str
    title: str
    level: int
    solution: str


def without_solutions(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook without solutions, be they text or cells with the tag `solution`."""
    cells = []
    for cell in notebook["cells"]:
        if SOLUTION in cell["metadata"].get("tags", []):
            continue
        if cell["cell_type"] == "markdown":
            kept = staging.TASK.sub(
                lambda match: "" if match["kind"] == "solution" else match[0], staging.text_of(cell)
            )
            cell = cell | {"source": "\n\n".join(part.strip("\n") for part in kept.split("\n\n\n") if part.strip())}
        cells.append(cell)
    return notebook | {"cells": cells}


def hand_out(folder: Path = PLACE) -> list[Path]:
    """Write all chapters without their solutions to `folder`."""
    written = []
    for path in notebooks():
        text = json.dumps(without_solutions(json.loads(path.read_text(encoding="utf-8"))), indent=1, ensure_ascii=False)
        target = folder / path.name
        written.append(files.write_atomically(target, lambda fresh, text=text: fresh.write_text(text + "\n", "utf-8")))
    return written


def exercises(path: Path) -> list[Exercise]:
    """The exercises of one notebook, in order."""
    found: dict[str, Exercise] = {}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for match in (m for c in cells if c["cell_type"] == "markdown" for m in staging.TASK.finditer(staging.text_of(c))):
        label, text = staging.task(match)
        if match["kind"] == "exercise":
            place = f"{number(path.stem)}.{len(found) + 1}"
            found[label] = Exercise(place, label, match["title"].strip(), level(path.stem, label), "")
        else:
            found[label] = found[label]._replace(solution=text)
    return list(found.values())


def page() -> str:
    """The instructor's page: every exercise with how hard it is, and its solution."""
    return markdown.page("instructor", chapters={path.stem: exercises(path) for path in notebooks()})
