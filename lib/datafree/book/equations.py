"""Where the library says which equation it computes: equation, function, tests and cells."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import files
from ..errors import DataFreeError
from ..evidence import claims
from ..evidence.notebook_text import notebooks, read_cells, targets, targets_in


@functools.cache
def paper_names() -> dict[str, str]:
    """How docstrings name the papers, in brackets at the end of their first sentence -> key of the paper."""
    return {entry["cited_as"]: key for key, entry in claims.papers().items()}


@functools.cache
def _citation() -> re.Pattern:
    return re.compile(
        rf"\((?P<paper>{'|'.join(map(re.escape, paper_names()))}), "
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
    label: str = ""
    tests: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


def parse(path: Path) -> ast.Module:
    """The syntax tree of a Python file; DataFreeError naming the file where it is not Python."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        raise DataFreeError(f"'{path}' is not valid Python ({error}).") from None


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """(name, node) of each function and class, methods as 'Class.method'."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


def cited(path: Path, module: str) -> list[Equation]:
    """The functions and classes of one file whose docstrings begin with a citation."""
    found = []
    for name, node in definitions(parse(path)):
        text = ast.get_docstring(node) or ""
        first = " ".join(text.partition("\n\n")[0].split())
        citation = _citation().search(first)
        if citation:
            label = re.search(r"\{(?:ref|eq)\}`([\w-]+)`", text)
            what = first[: citation.start()].strip()
            key = paper_names()[citation["paper"]]
            found.append(Equation(key, citation["place"], f"{module}.{name}", what, label[1] if label else ""))
    return found


def _imports(tree: ast.AST) -> dict[str, str]:
    """Name -> what it stands for, for all that the code imports: 'hooks' -> 'datafree.core.hooks'."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Import):
            known |= {alias.asname or alias.name: alias.name for alias in node.names}
    return known


def _dotted(node: ast.AST, known: dict[str, str]) -> str:
    """What `hooks.stages` stands for in full; '' where the imports do not tell."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    owner = _dotted(node.value, known) if isinstance(node, ast.Attribute) else ""
    return f"{owner}.{node.attr}" if owner else ""


def _used(node: ast.AST, known: dict[str, str]) -> set[str]:
    """The full names that the code uses; '.name' for attributes of anything else, ':name' for names of its own file."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute | ast.arg)]
    own = {f":{getattr(n, 'id', None) or n.arg}" for n in names if not isinstance(n, ast.Attribute)}
    attributes = [n for n in names if not isinstance(n, ast.arg)]
    return own | {_dotted(n, known) or f".{getattr(n, 'attr', '')}" for n in attributes}


@dataclass(frozen=True)
class Code:
    """A piece of code: what its file imports, and the names that it uses."""

    known: frozenset[str]
    used: frozenset[str]

    def uses(self, function: str) -> bool:
        """A method counts by its name, where its class or the class's module is imported."""
        owner, _, name = function.rpartition(".")
        module, _, kind = owner.rpartition(".")
        is_method = kind[:1].isupper() and not self.known.isdisjoint((owner, module))
        return function in self.used or (is_method and f".{name}" in self.used)


def _code(node: ast.AST, known: dict[str, str]) -> Code:
    return Code(frozenset(known.values()), frozenset(_used(node, known)))


@functools.cache
def tests(folder: Path) -> list[tuple[str, Code]]:
    """'FILE::TEST' and its code for each test function of the folder; helpers and fixtures of its file are part of it."""
    return [test for path in sorted(folder.rglob("test_*.py")) for test in _tests_in(path)]


def _tests_in(path: Path) -> Iterator[tuple[str, Code]]:
    tree = parse(path)
    known = _imports(tree)
    used = {name: _used(node, known) for name, node in definitions(tree)}
    for name in used:
        if name.rpartition(".")[2].startswith("test"):
            code = Code(frozenset(known.values()), frozenset(_with_helpers(name, used)))
            yield f"{path.name}::{name.replace('.', '::')}", code


def _with_helpers(name: str, used: dict[str, set[str]]) -> set[str]:
    """What a function uses, itself or through functions of its own file."""
    found: set[str] = set()
    waiting, seen = [name], set()
    while waiting:
        this = waiting.pop()
        seen.add(this)
        found |= used[this]
        waiting += [n[1:] for n in used[this] if n[0] == ":" and n[1:] in used and n[1:] not in seen]
    return found


def _parsed(source: str) -> ast.Module:
    """The syntax tree of a cell; an empty one where the cell is not plain Python."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def code_cells(path: Path) -> list[tuple[Cell, Code]]:
    """The code of a notebook's cells, each with the nearest target before it."""
    cells, found, near = read_cells(path), [], Cell(path.stem)
    known: dict[str, str] = {}
    for cell in cells:
        known |= _imports(_parsed(cell.source)) if cell.kind == "code" else {}
    for cell in cells:
        if cell.kind == "markdown":
            near = next((Cell(path.stem, *target) for target in reversed(targets_in(cell.source))), near)
        else:
            found.append((near, _code(_parsed(cell.source), known)))
    return found


def _place(cell: Cell, label: str, here: dict[str, str]) -> Cell:
    """The docstring's own target, if the notebook has it; else the nearest one before the cell."""
    return replace(cell, label=label, kind=here[label]) if label in here else cell


def equations(notebook_folder: Path | None = None) -> list[Equation]:
    """Every function that names an equation, with the tests and the notebook cells that use it."""
    library = Path(__file__).parents[1]
    found = []
    for path in sorted(library.rglob("*.py")):
        found += cited(path, ".".join(path.relative_to(library.parent).with_suffix("").parts))
    books = [(targets(path), code_cells(path)) for path in notebooks(notebook_folder)]
    return sorted((_joined(equation, books) for equation in found), key=_order)


def _joined(equation: Equation, books: list[tuple[dict[str, str], list[tuple[Cell, Code]]]]) -> Equation:
    known = [test for test, code in tests(files.ROOT / "tests") if code.uses(equation.function)]
    first = (
        next(((cell, here) for cell, code in cells if code.uses(equation.function)), None) for here, cells in books
    )
    return replace(
        equation, tests=known, cells=[_place(cell, equation.label, here) for cell, here in filter(None, first)]
    )


def _order(equation: Equation) -> tuple:
    """By paper; equations before sections, tables and the rest, each by number."""
    number = re.search(r"\d+", equation.place)
    kind = not equation.place.startswith("eq")
    return (
        list(paper_names().values()).index(equation.paper),
        kind,
        int(number[0]) if number else 0,
        equation.place,
        equation.function,
    )
