"""The report of `datafree compress` as one page of HTML that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from .. import files
from ..core.register import METHODS, Result

SETTINGS = "config"
MEASURED = ("bytes", "macs")
"""What is there twice: before, as NAME_float, and after, as NAME."""


def _template() -> jinja2.Template:
    place = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=place, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2")


def rows(report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, before, after, how many times less) of all that is known before and after."""
    pairs = [(name, report[f"{name}_float"], report[name]) for name in MEASURED]
    return [(n, f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.2f}" if b else "") for n, a, b in pairs]


def details(report: dict[str, Any]) -> dict[str, Any]:
    """What else the report says; tables within it are left to the .json."""
    shown = {f"{name}_float" for name in MEASURED} | {*MEASURED, SETTINGS, "method"}
    return {k: v for k, v in report.items() if k not in shown and not isinstance(v, dict) and len(str(v)) < 200}


def layers(result: Result) -> list[tuple[str, str, str]]:
    """(name, kind, shape) of every weight of the compressed network."""
    kinds = dict(result.model.named_modules())
    weights = [(n, p) for n, p in result.model.named_parameters() if p.ndim > 1]
    return [(n, type(kinds[n.rpartition(".")[0]]).__name__, " x ".join(map(str, p.shape))) for n, p in weights]


def write(name: str, result: Result, out: Path) -> Path:
    """Write the page of the network `name`, compressed, to `out`."""
    report = result.report
    text = _template().render(
        name=name, method=METHODS[report["method"]], rows=rows(report), settings=report[SETTINGS],
        details=details(report), layers=layers(result),
    )  # fmt: skip
    return files.write_atomically(out, lambda path: path.write_text(text))
