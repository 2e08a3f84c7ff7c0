"""What a run depends on, as one short text: when it differs from today's, the run's record is stale.

It covers the notebook's code, its parameters, the library's modules that the notebook imports, directly or through
others (docstrings and comments aside), and the versions of the packages that compute. What only draws or reports does
not change a measurement and is left out; so are checks that refuse an input: a run that they let pass, they do not change.
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
from ..config import Strict
from ..errors import DataFreeError
from .notebook_text import read_cells
from .record import portable

PACKAGE = __name__.partition(".")[0]
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
"""Packages whose version may change a number."""

REPORTING = (
    *("evidence", "book.show", "book.plots", "book.figures", "book.parameters"),
    *("core.provenance", "core.cost", "core.preflight", "errors"),
)
"""Modules (and those below them) that do not change what is measured; of the parameters, the values count."""

LIBRARY = Path(__file__).parents[1]
"""The folder of the package that this file belongs to."""

UNCOUNTED = {"parameters", "launch"}
"""Tags of cells that do not count: parameters count by their values, and how the library gets there changes nothing."""


def fingerprint(notebook: str, parameters: dict[str, Any]) -> str:
    """The fingerprint of a run of `notebook` with these parameters, as the library is now; the device does not count."""
    parts = {
        "notebook": notebook_code(notebook),
        "parameters": {name: value for name, value in parameters.items() if name != "device"},
        "modules": _code_of(modules_of(notebook)),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint_of(notebook: str, config: Strict) -> str:
    """The fingerprint of a run with this configuration, wherever the folders that it names lie."""
    return fingerprint(notebook, {name: portable(value) for name, value in config.model_dump().items()})


def is_stale(entry: dict[str, Any]) -> bool:
    """Whether what the run of a record depends on is not what it is today."""
    return not entry["fingerprint"] or entry["fingerprint"] != fingerprint(entry["notebook"], entry["parameters"])


def module_hash(module: str) -> str:
    """Another value where the code changed that a module of the library may run; docstrings and comments do not count."""
    parts = _code_of(name for name in closure([module]) if not _reports(name))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _code_of(modules: Iterable[str]) -> dict[str, str]:
    return {name: code_hash(_file(name)) for name in sorted(modules)}


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
    counted = (c for c in read_cells(path) if c.kind == "code" and not UNCOUNTED & set(c.tags))
    try:
        return "\n".join(_dumped(cell.source) for cell in counted)
    except SyntaxError as error:
        raise DataFreeError(f"a cell of '{path.name}' is not valid Python ({error}).") from None


@functools.cache
def _dumped(source: str) -> str:
    return ast.dump(ast.parse(source))


def code_hash(path: Path) -> str:
    """Hash of a module without docstrings and comments."""
    return _text_hash(path.read_text(encoding="utf-8"))


@functools.cache
def _text_hash(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [n for n in statements if not _is_text(n) and not _is_check(n)])
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.stmt) -> bool:
    """A text that stands alone: the docstring of whatever it follows."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_check(node: ast.stmt) -> bool:
    """`if ...: raise ...`, a call of the preflight for its own sake, or an import that only checks need."""
    if isinstance(node, ast.If):
        return isinstance(node.body[0], ast.Raise) and not node.orelse
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).startswith("preflight.")
    return isinstance(node, ast.ImportFrom) and (
        node.module == "errors" or [a.name for a in node.names] == ["preflight"]
    )


def _file(module: str) -> Path:
    place = LIBRARY.joinpath(*module.split(".")[1:])
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def modules_of(notebook: str) -> set[str]:
    """The library's modules that a notebook depends on, directly or through others."""
    cells = read_cells(files.ROOT / "notebooks" / f"{notebook}.ipynb")
    direct = {module for cell in cells if cell.kind == "code" for module in imported(cell.source)}
    return {m for m in closure(direct) if not _reports(m)}


def _reports(module: str) -> bool:
    return any(module == f"{PACKAGE}.{r}" or module.startswith(f"{PACKAGE}.{r}.") for r in REPORTING)


@functools.cache
def imported(source: str) -> frozenset[str]:
    """Modules of the library that a piece of code imports."""
    return frozenset(_imports(source))


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            yield from (_module_of(node.module, a.name) for a in node.names)


def _module_of(package: str, name: str) -> str:
    """Where `from package import name` leads: a module below, or the module that defines the name."""
    whole = f"{package}.{name}"
    if package != PACKAGE or _file(whole).is_file():
        return whole if _file(whole).is_file() else package
    top = importlib.import_module(PACKAGE)
    if name in vars(top):
        return vars(top)[name].__module__
    return f"{PACKAGE}.{top.CALLS[name].rpartition('.')[0]}" if name in top.CALLS else _settings()[name]


@functools.cache
def _settings() -> dict[str, str]:
    """Class -> module of the papers' folders, where the settings of the methods are defined; nothing is imported."""
    found = {}
    for path in sorted((LIBRARY / "papers").rglob("*.py")):
        module = ".".join([PACKAGE, *path.relative_to(LIBRARY).with_suffix("").parts])
        found |= {n.name: module for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}
    return found


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
