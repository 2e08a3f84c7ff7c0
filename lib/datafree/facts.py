"""What the papers print: claims, tables and figures, and where the library says which equation it computes."""

from __future__ import annotations

import ast
import functools
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import paths
from .errors import DataFreeError
from .params import Strict, build, read_yaml, suggestion


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
    return _claims(paths.PAPERS / "claims.yaml")


@functools.cache
def _claims(path: Path) -> dict[str, Claim]:
    content = read_yaml(path)
    entries = content.get("claims") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataFreeError(f"'{path}' must hold a list of claims under 'claims'.")
    found: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        claim = build(Claim, entry, f"'{path}', claim {entry.get('id', number)}")
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
    return _papers(paths.PAPERS / "tables.yaml")


@functools.cache
def _papers(path: Path) -> dict[str, dict[str, Any]]:
    content = read_yaml(path)
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


# Where the library computes what an equation says ------------------------------------------------------------------

PAPER_NAMES = {
    "The Knowledge Within": "knowledge_within",
    "Layer-Wise Data-Free CNN Compression": "layerwise",
    "UDFC": "udfc",
    "FRanDI": "frandi",
}
"""How docstrings name the papers: 'Channel-wise divergence (The Knowledge Within, eq. 1).'"""

_CITATION = re.compile(
    rf"\((?P<paper>{'|'.join(map(re.escape, PAPER_NAMES))}), "
    r"(?P<place>(?:eqs?\.|sections?|appendix|algorithm|figures?|fig\.|tables?) [^()]+)\)\.?$"
)


@dataclass(frozen=True)
class Cell:
    """A place in a notebook: its name, and the nearest target before it (`kind` is 'ref', 'eq' or '')."""

    notebook: str
    label: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Equation:
    """A function or class whose docstring's first sentence names an equation or section of a paper."""

    paper: str
    place: str
    function: str
    what: str
    file: str
    label: str = ""
    tests: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


def _relative(path: Path) -> str:
    return path.relative_to(paths.ROOT).as_posix() if path.is_relative_to(paths.ROOT) else path.name


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file; DataFreeError naming the file where it is not Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        raise DataFreeError(f"'{path}' is not valid Python ({error}).") from None


def _definitions(node: ast.AST, prefix: str = ""):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{prefix}{child.name}.")


def _cited(path: Path, module: str) -> list[Equation]:
    found = []
    for name, node in _definitions(parse(path)):
        text = ast.get_docstring(node) or ""
        first = " ".join(text.partition("\n\n")[0].split())
        citation = _CITATION.search(first)
        if citation:
            label = re.search(r"\{(?:ref|eq)\}`([\w-]+)`", text)
            what = first[: citation.start()].strip()
            key = PAPER_NAMES[citation["paper"]]
            function = f"{module}.{name}"
            found.append(Equation(key, citation["place"], function, what, _relative(path), label[1] if label else ""))
    return found


def _identifiers(node: ast.AST) -> set[str]:
    return {
        getattr(n, "id", None) or getattr(n, "attr", "")
        for n in ast.walk(node)
        if isinstance(n, ast.Name | ast.Attribute)
    }


def _tests(folder: Path) -> list[tuple[str, set[str]]]:
    """(test, the names it uses) for each test function of the folder."""
    return [
        (f"{path.name}::{name.replace('.', '::')}", _identifiers(node))
        for path in sorted(folder.glob("test_*.py"))
        for name, node in _definitions(parse(path))
        if name.rpartition(".")[2].startswith("test")
    ]


def notebook_cells(path: Path) -> list[tuple[str, str]]:
    """(cell type, source) of each cell of a notebook; DataFreeError naming the file where it is not one."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFreeError(f"'{path}' is not a readable notebook ({error}); restore it with git.") from None


_TARGET = re.compile(
    r"^\((?P<ref>[\w-]+)\)=[ \t]*$|^:label: *(?P<label>[\w-]+)[ \t]*$|^\$\$ *\((?P<eq>[\w-]+)\)[ \t]*$", re.M
)


def targets(path: Path) -> dict[str, str]:
    """Label -> 'ref' or 'eq' for the targets in a notebook's markdown."""
    matches = (m for kind, source in notebook_cells(path) if kind == "markdown" for m in _TARGET.finditer(source))
    return {m["ref"] or m["label"] or m["eq"]: "ref" if m["ref"] else "eq" for m in matches}


def _use(path: Path, name: str, label: str) -> Cell | None:
    """Where the notebook uses `name`: with the docstring's own label if it is here, else the nearest target before."""
    near, kind = "", ""
    for cell_type, source in notebook_cells(path):
        if cell_type == "markdown":
            for match in _TARGET.finditer(source):
                near, kind = match["ref"] or match["label"] or match["eq"], "ref" if match["ref"] else "eq"
        elif re.search(rf"\b{re.escape(name)}\b", source):
            here = targets(path)
            return Cell(path.stem, label, here[label]) if label in here else Cell(path.stem, near, kind)
    return None


def notebooks(folder: Path | None = None) -> list[Path]:
    """The notebooks of a folder (default: notebooks/), in order."""
    return sorted((folder or paths.ROOT / "notebooks").glob("*.ipynb"))


def equations(notebook_folder: Path | None = None) -> list[Equation]:
    """Every function that names an equation, with the tests and the notebook cells that use it."""
    library = Path(__file__).parent
    files = sorted(library.glob("papers/*.py")) + sorted(library.glob("*.py"))
    found = [
        e for path in files for e in _cited(path, ".".join(path.relative_to(library.parent).with_suffix("").parts))
    ]
    tests = _tests(paths.ROOT / "tests")
    return sorted((_joined(e, tests, notebooks(notebook_folder)) for e in found), key=_order)


def _joined(equation: Equation, tests: list[tuple[str, set[str]]], books: list[Path]) -> Equation:
    name = equation.function.rpartition(".")[2]
    cells = [cell for path in books if (cell := _use(path, name, equation.label))]
    return replace(equation, tests=[test for test, names in tests if name in names], cells=cells)


def _order(equation: Equation) -> tuple:
    number = re.search(r"\d+", equation.place)
    kind = not equation.place.startswith("eq")
    return (
        list(PAPER_NAMES.values()).index(equation.paper),
        kind,
        int(number[0]) if number else 0,
        equation.place,
        equation.function,
    )
