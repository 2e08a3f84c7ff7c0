"""Notebooks to hand out, without the solutions of their exercises; the same with them; and the list for who teaches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import files
from ..evidence.notebook_text import notebooks
from ..evidence.record import read_all
from . import code_exercises, facts, markdown, staging
from .chapter_text import level, number

PLACE = files.BUILD / "student"
TEACHER = files.BUILD / "instructor"


class Exercise(NamedTuple):
    """An exercise of a chapter, with its solution in Markdown."""

    number: str
    label: str
    title: str
    level: int
    solution: str


def copied(notebook: dict[str, Any], solved: bool = False) -> dict[str, Any]:
    """The notebook to hand out: cells to write in behind each exercise in code; no solutions unless `solved`."""
    return notebook | {"cells": [part for cell in notebook["cells"] for part in _parts(cell, solved)]}


def _parts(cell: dict[str, Any], solved: bool) -> Iterator[dict[str, Any]]:
    """A cell, without solutions in words, and split behind each exercise in code, where its cells come."""
    if cell["cell_type"] != "markdown":
        yield cell
        return
    text, start, count = staging.text_of(cell), 0, 0
    for match in staging.TASK.finditer(text):
        one = code_exercises.find(staging.task(match)[0]) if match["kind"] == "exercise" else None
        if one:
            yield _piece(cell, text[start : match.end()], solved, count)
            yield from code_exercises.cells(one, solved)
            start, count = match.end(), count + 1
    if text[start:].strip():
        yield _piece(cell, text[start:], solved, count)


def _piece(cell: dict[str, Any], text: str, solved: bool, count: int) -> dict[str, Any]:
    kept = staging.TASK.sub(lambda m: "" if m["kind"] == "solution" and not solved else m[0], text)
    source = "\n\n".join(part.strip("\n") for part in kept.split("\n\n\n") if part.strip()).strip("\n")
    named = {"id": f"{cell['id']}-{count}"} if count and "id" in cell else {}
    return cell | named | {"source": source}


def with_numbers(notebook: dict[str, Any], found: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The notebook with the numbers of the records in its prose, which Jupyter does not look up; so no word about that."""
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown":
            cells.append(cell)
        elif "launch" not in cell["metadata"].get("tags", []):
            cells.append(cell | {"source": facts.filled(staging.text_of(cell), found, name)})
    return notebook | {"cells": cells}


def hand_out(folder: Path = PLACE, solved: bool = False) -> list[Path]:
    """Write all chapters to `folder`: without their solutions, or `solved`."""
    written, found = [], read_all()
    for path in notebooks():
        whole = with_numbers(json.loads(path.read_text(encoding="utf-8")), found, path.stem)
        text = json.dumps(copied(whole, solved), indent=1, ensure_ascii=False)
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
            place, code = f"{number(path.stem)}.{len(found) + 1}", code_exercises.find(label)
            solution = staging.code_solution(code) if code else ""
            found[label] = Exercise(place, label, match["title"].strip(), level(path.stem, label), solution)
        else:
            found[label] = found[label]._replace(solution=text)
    return list(found.values())


def page() -> str:
    """The instructor's page: every exercise with how hard it is, and its solution."""
    return markdown.page("instructor", chapters={path.stem: exercises(path) for path in notebooks()})
