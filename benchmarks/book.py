"""The book in the profile 'smoke': made in an empty folder, made again, and after a change of one notebook."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from datafree import files
from datafree.errors import DataFreeError

from .harness import case

GROUP = "The book"
CHANGED = "05_lw_equalization"
LEFT_OUT = ("_build", ".*", "__pycache__", "shared")


def build(root: Path) -> float:
    """Seconds that the build of the book in `root` takes."""
    environment = os.environ | {"DATAFREE_ROOT": str(root), "PYTHONPATH": str(root / "lib")}
    command = [sys.executable, "-m", "datafree.cli", "build", "book", "--profile", "smoke"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DataFreeError(f"the book of the benchmark was not built: {(done.stderr or done.stdout).strip()[-500:]}")
    return time.perf_counter() - start


def change(root: Path) -> None:
    """Add a line to a cell of one notebook."""
    path = root / "notebooks" / f"{CHANGED}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [
        c for c in notebook["cells"] if c["cell_type"] == "code" and "parameters" not in c["metadata"].get("tags", [])
    ]
    cells[0]["source"] = [*cells[0]["source"], "\nchanged = True"]
    path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


@functools.cache
def seconds() -> dict[str, float]:
    """Seconds of the three builds, in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "book"
        shutil.copytree(files.ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        found = {"cold": build(root), "warm": build(root)}
        change(root)
        return found | {"changed": build(root)}


def cores() -> int:
    """How many notebooks a build runs at once."""
    return min(2, os.cpu_count() or 1)


for _key, _ours in (("warm", "nothing changed since"), ("changed", "one notebook changed")):
    case(
        f"book, {_ours}", group=GROUP, ours=f"the book built again, {_ours}",
        theirs="the book built in an empty folder, environment aside (profile smoke)",
        note=f"{cores()} notebooks at once, one thread each, measured once.",
    )(lambda key=_key: [(seconds()[key], seconds()["cold"])])  # fmt: skip
