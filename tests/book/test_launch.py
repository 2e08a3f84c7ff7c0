"""A notebook by itself, as Colab opens it: it gets the book's code and runs. Nothing is installed, nothing is fetched."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from datafree import files
from datafree.book import parameters, staging
from datafree.evidence import fingerprint
from datafree.evidence.notebook_text import notebooks, read_cells

RUN = """
import json, sys
from pathlib import Path
sys.path[:] = [p for p in sys.path if not (Path(p) / "datafree").is_dir()]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f)]
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for source in json.loads(Path("cells.json").read_text()):
    shell.run_cell(source).raise_error()
print("from", Path(shell.user_ns["datafree"].__file__).parents[2].name)
"""


def launches(path):
    return [cell for cell in read_cells(path) if "launch" in cell.tags]


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.stem)
def test_every_notebook_begins_with_the_same_launch(path):
    assert [c.source for c in launches(path)] == [c.source for c in launches(notebooks()[0])]
    assert [(c.kind, "launch" in c.tags) for c in read_cells(path)[:3]] == [
        ("markdown", False), ("markdown", True), ("code", True)
    ]  # fmt: skip
    assert "{fact}" in launches(path)[0].source


def test_pages_and_fingerprints_do_not_know_it():
    path = notebooks()[0]
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for said in ("find_spec", "as a notebook"):
        assert any(said in staging.text_of(cell) for cell in notebook["cells"])
        assert all(said not in staging.text_of(cell) for cell in staging.staged(notebook)["cells"])
    assert "find_spec" not in fingerprint.notebook_code(path.stem)


def test_the_repository_is_the_one_of_the_book():
    url = files.read_yaml(files.ROOT / "_config.yml")["repository"]["url"]
    assert f'"{url}"' in launches(notebooks()[0])[1].source


@pytest.mark.skipif(not (files.ROOT / ".git").exists(), reason="skipped: not a clone, so nothing to clone from")
def test_a_bare_copy_gets_the_book_and_runs(tmp_path):
    """Chapter 0 with the parameters of the profile 'smoke', in an empty folder and with a `pip` that does nothing."""
    cells = [c for c in read_cells(notebooks()[0]) if c.kind == "code"]
    at = next(k for k, c in enumerate(cells) if "parameters" in c.tags) + 1
    short = "\n".join(f"{k} = {v!r}" for k, v in parameters.resolve("00_start", "smoke").model_dump().items())
    sources = [c.source for c in cells]
    (tmp_path / "cells.json").write_text(json.dumps([*sources[:at], short, *sources[at:]]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pip").symlink_to(shutil.which("true"))
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DATAFREE_ROOT")}
    environment |= {"DATAFREE_BOOK": files.ROOT.as_uri(), "PATH": path, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    assert "from datafree-book" in done.stdout and (tmp_path / "datafree-book" / "_build" / "records").is_dir()
