"""The text of the notebooks: their cells, and the targets in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from .. import files
from ..errors import DataFreeError


class CellText(NamedTuple):
    """A cell of a notebook: 'code' or 'markdown', its source and its tags."""

    kind: str
    source: str
    tags: tuple[str, ...]


def read_cells(path: Path) -> list[CellText]:
    """The cells of a notebook; DataFreeError naming the file where it is not one."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [CellText(c["cell_type"], "".join(c["source"]), tuple(c["metadata"].get("tags", ()))) for c in cells]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFreeError(f"'{path}' is not a readable notebook ({error}); restore it with git.") from None


_TARGET = re.compile(
    r"^\((?P<ref>[\w-]+)\)=[ \t]*$|^:label: *(?P<label>[\w-]+)[ \t]*$|^\$\$ *\((?P<eq>[\w-]+)\)[ \t]*$", re.M
)


def targets_in(markdown: str) -> list[tuple[str, str]]:
    """(label, 'ref' or 'eq') for the targets in a piece of markdown, in order."""
    matches = _TARGET.finditer(markdown)
    return [(m["ref"] or m["label"] or m["eq"], "ref" if m["ref"] else "eq") for m in matches]


def targets(path: Path) -> dict[str, str]:
    """Label -> 'ref' or 'eq' for the targets in a notebook's markdown."""
    markdown = (cell.source for cell in read_cells(path) if cell.kind == "markdown")
    return {label: kind for source in markdown for label, kind in targets_in(source)}


def notebooks(folder: Path | None = None) -> list[Path]:
    """The notebooks of a folder (default: notebooks/), in order."""
    return sorted((folder or files.ROOT / "notebooks").glob("*.ipynb"))
