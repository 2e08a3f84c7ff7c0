"""The book in the profile 'smoke': made in an empty folder, made again, and after a change of one notebook."""

from __future__ import annotations

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from datafree import files
from datafree.errors import DataFreeError

from .harness import case

GROUP = "The book"
CHANGED = "05_lw_equalization"
LEFT_OUT = ("_build", ".*", "__pycache__", "shared")


def build(root: Path) -> float:
    """CPU seconds of all processes that build the book in `root`."""
    environment = os.environ | {"DATAFREE_ROOT": str(root), "PYTHONPATH": str(root / "lib"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "datafree.cli", "build", "book", "--profile", "smoke"]
    before = spent()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise DataFreeError(f"the book of the benchmark was not built: {(done.stderr or done.stdout).strip()[-500:]}")
    return spent() - before


def spent() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    """CPU seconds of the three builds, in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "book"
        shutil.copytree(files.ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        found = {"cold": build(root), "warm": build(root)}
        change(root)
        return found | {"changed": build(root)}


for _key, _ours in (("warm", "nothing changed since"), ("changed", "one notebook changed")):
    case(
        f"book, {_ours}", group=GROUP, ours=f"the book built again, {_ours} (profile smoke)",
        theirs="the book built in an empty folder, environment aside",
        note="CPU seconds of all processes, measured once.",
    )(lambda key=_key: [(seconds()[key], seconds()["cold"])])  # fmt: skip
