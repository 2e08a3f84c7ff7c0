"""The page of faults that were tried: what was done, what happens, and the test that does it."""

from __future__ import annotations

from typing import NamedTuple

from .. import files
from ..errors import DataFreeError
from . import markdown
from .staging import REPOSITORY

PLACE = files.ROOT / "book" / "faults.yaml"


class Fault(NamedTuple):
    """One row; `test` is FILE::FUNCTION below tests/."""

    done: str
    happens: str
    test: str

    @property
    def file(self) -> str:
        return self.test.partition("::")[0]

    @property
    def name(self) -> str:
        return self.test.partition("::")[2]


def faults() -> dict[str, list[Fault]]:
    """Kind -> its rows, from book/faults.yaml."""
    found = {}
    for kind, rows in (files.read_yaml(PLACE) or {}).items():
        if not all(isinstance(row, list) and len(row) == 3 and "::" in str(row[2]) for row in rows):
            raise DataFreeError(f"'{PLACE.name}', {kind}: a row is [what was done, what happens, FILE::TEST].")
        found[kind] = [Fault(*map(str, row)) for row in rows]
    return found


def page() -> str:
    """All of them as Markdown."""
    kinds = faults()
    return markdown.page("faults", kinds=kinds, count=sum(map(len, kinds.values())), repository=REPOSITORY)
