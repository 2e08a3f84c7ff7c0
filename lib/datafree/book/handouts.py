"""A page a paper for a reading group: scope, method, what holds and what does not, what is left unsaid, questions."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from .. import files
from ..config import Strict, validate
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


def page(paper: str, rows: Sequence[dict[str, Any]], label: str, found: Sequence[dict[str, Any]]) -> str:
    """The hand-out of a paper in Markdown.

    Args:
        rows: of the ledger, where the paper is called `label`.
        found: all records on file, for the numbers in its text.
    """
    mine = [row for row in rows if row["paper"] == paper]
    whole = markdown.page(
        "handout",
        title=claims.papers()[paper]["title"],
        paper=paper,
        anchor=label.lower().replace(" ", "-"),
        text=handouts()[paper],
        diagram=front.method(paper),
        chapters={number(name): name for name in front.front().papers[paper].chapters},
        holds=[row for row in mine if row["state"] in ("reproduced", "partly")],
        fails=[row for row in mine if row["state"] == "contradicted"],
        others=len([row for row in mine if row["state"] in ("undecided", "open", "not testable here")]),
        identities=len([row for row in mine if row["identity"]]),
        total=len(mine),
    )
    return facts.filled(whole, found, front.front().papers[paper].chapters[0])
