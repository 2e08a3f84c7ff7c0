"""The front page: what a network dreams, four papers with their verdicts, three doors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from .. import files
from ..config import Strict, validate
from ..errors import DataFreeError
from ..evidence import claims, ledger
from . import diagrams, facts, markdown
from .chapter_text import number

PLACE = files.ROOT / "book" / "front.yaml"


class Card(Strict):
    """A paper on the front page. whole, broken, repaired: facts, accuracies in percent of what `shown` says."""

    chapters: list[str]
    about: str
    steps: list[list[str]]
    shown: str
    whole: str
    broken: str
    repaired: str


class Front(Strict):
    """The whole page."""

    pipeline: list[list[str]]
    papers: dict[str, Card]


@functools.cache
def front() -> Front:
    """What the page says, from front.yaml."""
    return validate(Front, files.read_yaml(PLACE), f"'{PLACE.name}'")


def method(paper: str) -> str:
    """The diagram of a paper's method."""
    steps = front().papers[paper].steps
    return f'<figure class="method of-{paper}">{diagrams.flow(steps, "The method")}</figure>'


def page(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], labels: Mapping[str, str]) -> str:
    """The front page in Markdown, from the rows of the ledger and all records.

    Args:
        labels: paper -> its name in the ledger.
    """
    return markdown.page(
        "index",
        cards=[
            _card(paper, card, rows, found) | {"anchor": labels[paper].lower().replace(" ", "-")}
            for paper, card in front().papers.items()
        ],
        pipelines={
            room: diagrams.flow(front().pipeline, "From a model to this book", columns)
            for room, columns in {"wide": 4, "narrow": 2}.items()
        },
    )


def _card(paper: str, card: Card, rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    entry = claims.papers()[paper]
    states = ledger.counts([row for row in rows if row["paper"] == paper]).get(paper, {})
    return {
        "paper": paper,
        "title": entry["title"],
        "year": entry["year"],
        "about": card.about,
        "shown": card.shown,
        "bars": _bars(card, found),
        "states": {state: count for state, count in states.items() if count},
        "chapters": {number(name): name for name in card.chapters},
        "diagram": method(paper),
    }


def _bars(card: Card, found: Sequence[dict[str, Any]]) -> Mapping[str, float]:
    """Accuracy of the network whole, broken and repaired; nothing while one of the records is still to be made."""
    try:
        return {
            name: _value(text, found)
            for name, text in (("whole", card.whole), ("broken", card.broken), ("repaired", card.repaired))
        }
    except DataFreeError:
        return {}


def _value(text: str, found: Sequence[dict[str, Any]]) -> float:
    match = facts.FACT.fullmatch(text)
    known = match and facts.fact(found, match["notebook"] or "", match["path"])
    if not known:
        raise DataFreeError(f"'{PLACE.name}' asks for {text}, which no record has; mend the path, or make the record.")
    return known.value
