"""The code of the library as pages show it: found by name without importing, the docstring told apart."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..errors import DataFreeError
from .equations import definitions, parse

LIBRARY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Source:
    """A function or class: where it stands, what its docstring says, and its code without docstring."""

    name: str
    path: str
    line: int
    summary: str
    arguments: tuple[str, ...]
    code: str


def find(dotted: str) -> Source:
    """The source of `datafree.core.batchnorm.bns_divergence`; methods as MODULE.Class.method.

    Raises:
        DataFreeError: no module of the library defines or imports that name.
    """
    path, names = _module(dotted)
    for name, node in definitions(parse(path)) if names else ():
        if name == ".".join(names):
            return _source(path, name, node)
    elsewhere = _imported(path).get(names[0]) if names else None
    if elsewhere is None:
        raise DataFreeError(f"the library has no function or class '{dotted}'; mend the name that a chapter shows.")
    return find(".".join([elsewhere, *names[1:]]))


def _module(dotted: str) -> tuple[Path, list[str]]:
    """The file of the longest part of the name that is a module, and what is left of the name."""
    package, *parts = dotted.split(".")
    names: list[str] = []
    while package == LIBRARY.name and parts:
        place = LIBRARY.joinpath(*parts)
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                return path, names
        names.insert(0, parts.pop())
    raise DataFreeError(f"'{dotted}' is no part of the library; a chapter can show the code of the library only.")


@functools.cache
def _imported(path: Path) -> dict[str, str]:
    """Name -> the library's full name of it, for what the file imports from the library."""
    relative = path.relative_to(LIBRARY.parent).with_suffix("").parts
    package = relative[:-1]
    known = {}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            known |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return known


def _source(path: Path, name: str, node: ast.FunctionDef | ast.ClassDef) -> Source:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    gone = {n for inner in ast.walk(node) for n in _docstring_lines(inner)}
    kept = [lines[n - 1] for n in range(first, node.end_lineno + 1) if n not in gone]
    summary, arguments = described(ast.get_docstring(node) or "")
    code = re.sub(r":\n\n+(?= )", ":\n", textwrap.dedent("\n".join(kept)).rstrip())  # no gap where a docstring was
    code = re.sub(r" *# (fmt: skip|noqa.*)$", "", code, flags=re.M)
    return Source(name, path.relative_to(files.ROOT).as_posix(), first, summary, arguments, code)


def _docstring_lines(node: ast.AST) -> range:
    """The lines of a definition's docstring; none where it is all of the body."""
    body = getattr(node, "body", None)
    known = isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None
    return range(body[0].lineno, body[0].end_lineno + 1) if known and len(body) > 1 else range(0)


def described(docstring: str) -> tuple[str, tuple[str, ...]]:
    """First paragraph of a docstring on one line, and what it says of each argument and of the result."""
    summary = " ".join(docstring.partition("\n\n")[0].split())
    lines: list[str] = []
    for title in ("Args", "Returns"):
        section = re.search(rf"^{title}:\n((?:[ \t]+.*\n?|\n)+)", docstring + "\n", re.M)
        for line in textwrap.dedent(section[1]).splitlines() if section else ():
            if line.startswith(" ") and lines:
                lines[-1] += " " + line.strip()
            elif line.strip():
                lines.append(line.strip() if title == "Args" else f"returns: {line.strip()}")
    return summary, tuple(re.sub(r"\s*Book: \{ref\}`[\w-]+`\.?", "", line) for line in lines)
