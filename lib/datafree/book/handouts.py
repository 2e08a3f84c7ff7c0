"""A page a paper for a reading group: scope, method, what holds and what does not, what is left unsaid, questions."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

from .. import files
from ..config import Strict, validate
from ..errors import DataFreeError
from ..evidence import claims
from . import facts, front, markdown
from .chapter_text import number

PLACE = files.ROOT / "book" / "handouts.yaml"


class Handout(Strict):
    """One paper. unsaid: what its authors do not say, and where the book measures what that costs."""

    scope: str
    easy: list[str]
    hard: list[str]
    unsaid: list[list[str]]
    questions: list[str]


@functools.cache
def handouts() -> dict[str, Handout]:
    """Paper -> its hand-out."""
    content = files.read_yaml(PLACE)
    return {paper: validate(Handout, entry, f"'{PLACE.name}', {paper}") for paper, entry in content.items()}


HOLDS = 8
"""Claims that hold, on a hand-out."""


def spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many of the rows, from each chapter in turn, those first that are reproduced as a whole; in their own order."""
    chapters: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["state"] != "reproduced"):
        chapters.setdefault((row["cell"] or "").partition("#")[0], []).append(row)
    turns = itertools.zip_longest(*chapters.values())
    chosen = [row["id"] for turn in turns for row in turn if row][:count]
    return [row for row in rows if row["id"] in chosen]


def page(paper: str, rows: Sequence[dict[str, Any]], label: str, found: Sequence[dict[str, Any]]) -> str:
    """The hand-out of a paper in Markdown.

    Args:
        rows: of the ledger, where the paper is called `label`.
        found: all records on file, for the numbers in its text.
    """
    mine = [row for row in rows if row["paper"] == paper]
    text = handouts()[paper]
    return markdown.page(
        "handout",
        title=claims.papers()[paper]["title"],
        paper=paper,
        anchor=label.lower().replace(" ", "-"),
        text=text,
        unsaid=[(what, _measured(where, found)) for what, where in text.unsaid],
        diagram=front.method(paper),
        chapters={number(name): name for name in front.front().papers[paper].chapters},
        holds=spread([row for row in mine if row["state"] in ("reproduced", "partly")], HOLDS),
        fails=[row for row in mine if row["state"] == "contradicted"],
        others=len([row for row in mine if row["state"] in ("undecided", "open", "not testable here")]),
        identities=len([row for row in mine if row["identity"]]),
        total=len(mine),
    )


def _measured(where: str, found: Sequence[dict[str, Any]]) -> str:
    """Markdown that says where something is measured, with its numbers; without them while a record is still to be made."""
    pieces, end = [], 0
    try:
        for match in facts.FACT.finditer(where):
            number = facts.filled(match[0], found, "", folder="notebooks/")
            pieces += [markdown.escaped(where[end : match.start()]), number]
            end = match.end()
    except DataFreeError:
        return re.search(r"chapter \d+", where)[0]
    return " ".join([*pieces, markdown.escaped(where[end:])])
