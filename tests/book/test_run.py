"""The runner of notebooks: all or nothing, and one sentence for whatever goes wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from datafree import files
from datafree.book import locks, parameters, run
from datafree.errors import DataFreeError

NAME = "00_start"
WRITE_RECORD = f"""\
import json, os
with open(os.environ["DATAFREE_RECORD"], "w") as file:
    json.dump({{"notebook": "{NAME}", "seed": seed, "images": images}}, file)
"""


def write_notebook(folder: Path, *cells: str, name: str = NAME) -> None:
    """A notebook with the parameters of `name` and these code cells."""
    fields = parameters.NOTEBOOKS[name].model_fields
    first = nbformat.v4.new_code_cell("\n".join(f"{key} = {field.default!r}" for key, field in fields.items()))
    first.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, folder / f"{name}.ipynb")


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(run, "NOTEBOOKS", folder)
    monkeypatch.setattr(files, "BUILD", tmp_path / "_build")
    return folder


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails the test if a kernel is about to start."""
    import papermill

    def refuse(*_, **__):
        raise AssertionError("a kernel was started")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)


def places(tmp_path) -> dict:
    return {"out": tmp_path / "out" / "x.ipynb", "record": tmp_path / "record" / "x.json"}


def left_in(tmp_path) -> set[str]:
    """What a run left, without its lock."""
    found = {p.name for folder in ("out", "record") for p in (tmp_path / folder).glob("*")}
    return {name for name in found if not name.endswith(".lock")}


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"imagez": "3"}, "imagez"),
        ({"images": "abc"}, "images"),
        ({"images": "1.5"}, "images"),
        ({"images": "0"}, "images"),
        ({"images": ".nan"}, "images"),
        ({"data": ""}, "data"),
    ],
)
def test_bad_parameters_are_refused_before_a_kernel_starts(notebooks, no_kernel, tmp_path, overrides, named):
    write_notebook(notebooks)
    with pytest.raises(DataFreeError, match=named):
        run.run_notebook(NAME, "smoke", 0, overrides, **places(tmp_path))
    assert not (tmp_path / "out").exists() and not (tmp_path / "record").exists()


@pytest.mark.parametrize(("profile", "seed"), [("smoky", 0), ("smoke", -1)])
def test_unknown_profile_and_bad_seed_are_refused(notebooks, no_kernel, tmp_path, profile, seed):
    write_notebook(notebooks)
    with pytest.raises(DataFreeError):
        run.run_notebook(NAME, profile, seed, **places(tmp_path))


def test_an_unknown_notebook_is_answered_with_those_there_are(notebooks, no_kernel):
    write_notebook(notebooks)
    with pytest.raises(DataFreeError, match="no notebook '99_nothing'.*00_start"):
        run.run_notebook("99_nothing")


@pytest.mark.parametrize("which", ["out", "record"])
def test_a_place_that_cannot_be_written_is_refused_before_a_kernel_starts(notebooks, no_kernel, tmp_path, which):
    write_notebook(notebooks)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFreeError, match="cannot write"):
        run.run_notebook(NAME, "smoke", 0, **places(tmp_path) | {which: tmp_path / "file" / "x.json"})


def test_a_folder_to_write_is_refused_before_a_kernel_starts(notebooks, no_kernel, tmp_path):
    write_notebook(notebooks, "1")
    for place in ("out", "record"):
        with pytest.raises(DataFreeError, match="is a folder; give the name of a file"):
            run.run_notebook(NAME, "smoke", 0, **places(tmp_path) | {place: tmp_path})


def test_a_second_writer_is_refused_and_told_who_is_first(notebooks, no_kernel, tmp_path):
    write_notebook(notebooks)
    out = places(tmp_path)["out"]
    with locks.sole_writer(out), pytest.raises(DataFreeError, match=f"process {os.getpid()} .*kill {os.getpid()}"):
        run.run_notebook(NAME, "smoke", 0, **places(tmp_path))
    assert locks.holder(locks.lock_path(out)) is None


def test_a_good_run_leaves_notebook_and_record_and_nothing_else(notebooks, tmp_path):
    write_notebook(notebooks, WRITE_RECORD, "print('seed', seed, 'images', images)")
    stale = tmp_path / "out" / ".x.ipynb-draft-old"
    stale.mkdir(parents=True)
    (stale / "x.ipynb").write_text("left by a killed run")
    out, record = run.run_notebook(NAME, "smoke", 3, {"images": "17"}, **places(tmp_path))
    assert json.loads(record.read_text()) == {"notebook": NAME, "seed": 3, "images": 17}
    assert "papermill" in nbformat.read(out, 4).metadata and str(tmp_path) not in json.dumps(
        nbformat.read(out, 4).metadata
    )
    assert "seed 3 images 17" in nbformat.read(out, 4).cells[-1].outputs[0].text
    assert left_in(tmp_path) == {"x.ipynb", "x.json"}


def test_a_failing_cell_keeps_the_notebook_and_the_earlier_results(notebooks, tmp_path):
    write_notebook(notebooks, WRITE_RECORD, "# a comment\nprint('so far')\nraise ValueError('the sky\\nis green')")
    target = places(tmp_path)
    for path in target.values():
        path.parent.mkdir()
        path.write_text("from an earlier run")
    with pytest.raises(
        DataFreeError, match=r"'00_start' failed in cell \[\d+\] .*so far.*ValueError: is green"
    ) as caught:
        run.run_notebook(NAME, "smoke", 0, **target)
    assert len(str(caught.value).splitlines()) == 1
    assert {path.read_text() for path in target.values()} == {"from an earlier run"}
    failed = nbformat.read(tmp_path / "out" / "x.failed.ipynb", 4)
    assert failed.cells[-1].outputs[0].text == "so far\n" and str(tmp_path) not in json.dumps(failed.metadata)
    assert left_in(tmp_path) == {"x.ipynb", "x.json", "x.failed.ipynb"}


def test_a_dead_kernel_is_a_failure_even_after_the_record(notebooks, tmp_path):
    write_notebook(notebooks, WRITE_RECORD, "import os\nos._exit(1)")
    with pytest.raises(DataFreeError, match="kernel died"):
        run.run_notebook(NAME, "smoke", 0, **places(tmp_path))
    assert left_in(tmp_path) == {"x.failed.ipynb"}


def test_a_cell_that_takes_too_long_is_a_failure(notebooks, tmp_path):
    write_notebook(notebooks, "import threading\nthreading.Event().wait(600)")
    with pytest.raises(DataFreeError, match="more than 1 seconds"):
        run.run_notebook(NAME, "smoke", 0, timeout=1, **places(tmp_path))
    assert left_in(tmp_path) == {"x.failed.ipynb"}


@pytest.mark.parametrize(
    ("cell", "said"),
    [("1 + 1", "wrote no record"), (WRITE_RECORD.replace(NAME, "01_other"), "wrote a record for '01_other'")],
)
def test_without_its_own_record_a_run_has_not_succeeded(notebooks, tmp_path, cell, said):
    write_notebook(notebooks, cell)
    with pytest.raises(DataFreeError, match=said):
        run.run_notebook(NAME, "smoke", 0, **places(tmp_path))
    assert left_in(tmp_path) == set()


def test_runs_with_changed_parameters_stay_out_of_the_ledgers_records():
    plain, changed = run.places(NAME, "book", 0), run.places(NAME, "book", 0, {"images": 7})
    assert "records" in plain[1].parts and "records" not in changed[1].parts
    assert run.places(NAME, "book", 0, {"images": 8}) != changed


def small_root(tmp_path, *cells: str) -> Path:
    """A checkout of nothing but one notebook and the profiles."""
    root = tmp_path / "root"
    shutil.copytree(files.ROOT / "notebooks" / "profiles", root / "notebooks" / "profiles")
    write_notebook(root / "notebooks", *cells)
    return root


def start(root: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "datafree.cli", *arguments]
    return subprocess.Popen(command, env=os.environ | {"DATAFREE_ROOT": str(root)}, text=True, stderr=subprocess.PIPE)


def test_the_command_line_says_one_sentence_and_exits_with_2(tmp_path):
    process = start(small_root(tmp_path), "run", NAME, "--profile", "smoke", "-p", "images=many")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert re.fullmatch(r"datafree: .*images.*\n", said)


def test_a_terminated_run_leaves_nothing_and_ends_its_kernel(tmp_path):
    mark = tmp_path / "kernel"
    cell = f"import os, threading\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\nthreading.Event().wait(600)"
    process = start(small_root(tmp_path, cell), "run", NAME, "--profile", "smoke", "--no-bar")
    end = time.monotonic() + 120
    while not (mark.is_file() and mark.read_text()):
        assert process.poll() is None and time.monotonic() < end
        threading.Event().wait(0.05)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "run the same command again" in said
    left = [p for p in (tmp_path / "root" / "_build").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_short_copies_carry_the_parameters_of_the_profile_and_nothing_else_changes(tmp_path):
    made = run.short_copies(tmp_path)
    assert [path.stem for path in made] == list(parameters.NOTEBOOKS)
    for path in made:
        copy, source = (nbformat.read(p, 4) for p in (path, run.find(path.stem)))
        differ = [c for c, s in zip(copy.cells, source.cells, strict=True) if c.source != s.source]
        assert len(differ) <= 1 and all("parameters" in c.metadata.tags for c in differ)
        values: dict = {}
        exec(next(c.source for c in copy.cells if "parameters" in c.metadata.get("tags", [])), values)
        values.pop("__builtins__")
        assert values == parameters.resolve(path.stem, "smoke").model_dump()
