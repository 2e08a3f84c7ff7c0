"""What a chapter's page says beside its notebook: result, goals, what to read first, how hard the exercises are."""

from __future__ import annotations

import functools
from typing import Annotated

from pydantic import Field

from .. import files
from ..config import Strict, suggestion, validate
from ..errors import DataFreeError

PLACE = files.ROOT / "book" / "chapters.yaml"


class ChapterText(Strict):
    """One chapter.

    result: what came out, in one sentence; its numbers are facts of the records (book/facts.py).
    hero: the figure that stands at the head of the page: how its caption begins.
    goals: what the reader will be able to do.
    needs: notebooks to read first.
    levels: label of an exercise -> 1 (pen and paper), 2 (some code), 3 (an afternoon).
    """

    result: str
    hero: str
    goals: list[str]
    needs: list[str] = []
    levels: dict[str, Annotated[int, Field(ge=1, le=3)]] = {}


@functools.cache
def chapter_texts() -> dict[str, ChapterText]:
    """Notebook -> its text."""
    content = files.read_yaml(PLACE) or {}
    return {name: validate(ChapterText, entry, f"'{PLACE.name}', chapter {name}") for name, entry in content.items()}


def chapter_text(notebook: str) -> ChapterText:
    if notebook not in chapter_texts():
        raise DataFreeError(f"'{PLACE}' has no chapter '{notebook}'{suggestion(notebook, chapter_texts())}; add one.")
    return chapter_texts()[notebook]


def number(notebook: str) -> int:
    """The number of a chapter, as the sidebar shows it: 1 for 01_kw_synthesis."""
    return int(notebook.partition("_")[0])


def level(notebook: str, label: str) -> int:
    """How hard an exercise is."""
    levels = chapter_text(notebook).levels
    if label not in levels:
        raise DataFreeError(f"'{PLACE}' does not say how hard the exercise '{label}' of {notebook} is (1, 2 or 3).")
    return levels[label]
