"""What a run depends on, as one short text: when it differs from today's, the run's record is stale.

It covers the notebook's code, its parameters, the library's modules that the notebook imports, directly or through
others (docstrings and comments aside), and the versions of the packages that compute. What only draws or reports does
not change a measurement and is left out.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import json
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataFreeError
from .notebook_text import notebook_cells

PACKAGE = __name__.partition(".")[0]
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
"""Packages whose version may change a number."""

REPORTING = ("evidence", "book.show", "book.plots", "core.provenance", "core.cost")
"""Modules (and those below them) that do not change what is measured."""


def fingerprint(notebook: str, parameters: dict[str, Any]) -> str:
    """The fingerprint of a run of `notebook` with these parameters, as the library is now; the device does not count."""
    parts = {
        "notebook": notebook_code(notebook),
        "parameters": {name: value for name, value in parameters.items() if name != "device"},
        "modules": {name: code_hash(_file(name)) for name in sorted(modules_of(notebook))},
        "packages": {name: _version(name) for name in PACKAGES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _version(name: str) -> str:
    """A package's version without the label of a build ('+cpu')."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def notebook_code(notebook: str) -> str:
    """The notebook's code as the interpreter sees it: comments, layout and the values of the parameters cell do not count."""
    return _notebook_code(files.ROOT / "notebooks" / f"{notebook}.ipynb")


def _notebook_code(path: Path) -> str:
    sources = [source for kind, source in notebook_cells(path) if kind == "code"]
    return "\n".join(ast.dump(_parsed(source, path)) for source in sources if not _only_assigns_constants(source))


def _parsed(source: str, path: Path) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise DataFreeError(f"a cell of '{path.name}' is not valid Python ({error}).") from None


def _only_assigns_constants(source: str) -> bool:
    """The parameters cell: its values are counted as parameters."""
    body = ast.parse(source).body
    return bool(body) and all(isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) for node in body)


@functools.cache
def code_hash(path: Path) -> str:
    """Hash of a module without docstrings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a text that stands alone is a docstring, of whatever it follows
            node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _file(module: str) -> Path:
    place = Path(__file__).resolve().parents[1].joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def modules_of(notebook: str) -> set[str]:
    """The library's modules that a notebook depends on, directly or through others."""
    cells = notebook_cells(files.ROOT / "notebooks" / f"{notebook}.ipynb")
    direct = {m for kind, source in cells if kind == "code" for m in imported(source)}
    return {m for m in closure(direct) if not _reports(m)}


def _reports(module: str) -> bool:
    return any(module == f"{PACKAGE}.{r}" or module.startswith(f"{PACKAGE}.{r}.") for r in REPORTING)


def imported(source: str) -> Iterator[str]:
    """Modules of the library that a piece of code imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            yield from (_module_of(node.module, a.name) for a in node.names)


def _module_of(package: str, name: str) -> str:
    """Where `from package import name` leads: a module below, or the module that defines the name."""
    whole = f"{package}.{name}"
    if _file(whole).is_file():
        return whole
    # a name at the top of the library is found on first use: ask for it, and where it comes from
    return getattr(importlib.import_module(package), name).__module__ if package == PACKAGE else package


@functools.cache
def _graph():
    import grimp

    return grimp.build_graph(PACKAGE, cache_dir=None)


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and all that they import, directly or through others."""
    found: set[str] = set()
    for module in set(modules) - {PACKAGE}:
        found |= {module} | _graph().find_upstream_modules(module)
    return found - {PACKAGE}
