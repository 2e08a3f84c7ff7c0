"""What the papers print: claims, tables and figures."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from .. import files
from ..config import Strict, suggestion, validate
from ..errors import DataFreeError


class Claim(Strict):
    """One checkable statement of a paper, as in book/papers/claims.yaml."""

    id: str
    paper: str
    statement: str
    where: str
    kind: str
    how_to_check: str
    note: str = ""


def claims() -> dict[str, Claim]:
    """Claim id -> claim, in the order of claims.yaml. DataFreeError for an id given twice or a missing field."""
    return _claims(files.PAPERS / "claims.yaml")


@functools.cache
def _claims(path: Path) -> dict[str, Claim]:
    content = files.read_yaml(path)
    entries = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataFreeError(f"'{path}' must hold a list of claims under 'claims'.")
    found: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        claim = validate(Claim, entry, f"'{path}', claim {entry.get('id', number)}")
        if not re.fullmatch(r"[a-z]{2}-c\d+", claim.id):
            raise DataFreeError(
                f"'{path}': '{claim.id}' is not a claim id; expected two letters, '-c' and digits, as kw-c01."
            )
        if claim.id in found:
            raise DataFreeError(f"'{path}' has the claim '{claim.id}' twice; give one of them another id.")
        found[claim.id] = claim
    return found


def claim(claim_id: str) -> Claim:
    """One claim; DataFreeError with the nearest id where there is none of that name."""
    known = claims()
    if claim_id not in known:
        close = suggestion(claim_id, known)
        raise DataFreeError(f"claim '{claim_id}' is not in book/papers/claims.yaml{close}; use an id from that file.")
    return known[claim_id]


def papers() -> dict[str, dict[str, Any]]:
    """Paper key -> its title, authors, tables and stated figures, as transcribed in tables.yaml."""
    return _papers(files.PAPERS / "tables.yaml")


@functools.cache
def _papers(path: Path) -> dict[str, dict[str, Any]]:
    content = files.read_yaml(path)
    entries = content.get("papers") if isinstance(content, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataFreeError(f"'{path}' must hold the papers by name under 'papers'.")
    return entries


def table(paper: str, name: str) -> dict[str, Any]:
    """A printed table: caption, columns, rows (a list of dicts) and notes. `table("knowledge_within", "T1")`."""
    known = papers()
    if paper not in known:
        raise DataFreeError(f"paper '{paper}' is not known{suggestion(paper, known)}; known: {', '.join(known)}.")
    tables = known[paper].get("tables") or {}
    if name not in tables:
        raise DataFreeError(f"paper '{paper}' has no table '{name}'; known: {', '.join(tables) or 'none'}.")
    return tables[name]


def paper_value(paper: str, name: str, where: dict[str, Any], column: str) -> tuple[float, float | None]:
    """One printed number and the one printed after it with a plus-minus sign (None where there is none).

    Args:
        paper, name: as for `table`.
        where: column -> value; it must single out one row. None matches an empty cell.
        column: the column of the number.
    """
    content = table(paper, name)
    what = f"table {name} of '{paper}'"
    for key in (*where, column):
        if key not in content["columns"]:
            raise DataFreeError(f"{what} has no column '{key}'; it has {', '.join(content['columns'])}.")
    rows = [row for row in content["rows"] if all(row.get(k) == v for k, v in where.items())]
    if len(rows) != 1:
        raise DataFreeError(f"{len(rows)} rows of {what} fit {where}; give conditions that fit exactly one.")
    cell = rows[0].get(column)
    value, spread = (cell["v"], cell.get("pm")) if isinstance(cell, dict) else (cell, None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataFreeError(f"{what} prints no number in column '{column}' of the row {where}.")
    return float(value), None if spread is None else float(spread)
