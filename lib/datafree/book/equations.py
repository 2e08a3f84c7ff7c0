"""Where the library says which equation it computes: equation, function, tests and cells."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import DataFreeError
from ..evidence.notebook_text import _TARGET, notebook_cells, notebooks, targets
from ..files import ROOT

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
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


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
        for path in sorted(folder.rglob("test_*.py"))
        for name, node in _definitions(parse(path))
        if name.rpartition(".")[2].startswith("test")
    ]


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


def equations(notebook_folder: Path | None = None) -> list[Equation]:
    """Every function that names an equation, with the tests and the notebook cells that use it."""
    library = Path(__file__).parents[1]
    files = sorted(library.glob("papers/**/*.py")) + sorted(
        set(library.rglob("*.py")) - set(library.glob("papers/**/*.py"))
    )
    found = [
        e for path in files for e in _cited(path, ".".join(path.relative_to(library.parent).with_suffix("").parts))
    ]
    tests = _tests(ROOT / "tests")
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
