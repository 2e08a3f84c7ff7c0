"""The run graph: what a change makes anew, and what an interrupted build leaves. Nothing heavy is run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from datafree import files
from datafree.book import build, locks, parameters, plan, run
from datafree.book.build import swap
from datafree.errors import DataFreeError
from datafree.evidence import fingerprint

OLD, NEW = 1_700_000_000, 1_800_000_000
"""Two times of modification: everything was made soon after OLD from what was written at OLD."""

ALL = tuple(parameters.NOTEBOOKS)


def touch(path: Path, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return path


def edit(path: Path, old: str, new: str) -> None:
    """Replace the first `old` in a file, and let the file be newer than all that was made."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    os.utime(path, (NEW, NEW))


def record_of_today(name: str, profile: str = "book", seed: int = 0, inputs: dict | None = None) -> None:
    """What the planner reads of a run that was made from what the notebook depends on now."""
    executed, record = run.places(name, profile, seed)
    touch(executed, OLD + 11)
    record.parent.mkdir(parents=True, exist_ok=True)
    now = fingerprint.fingerprint_of(name, parameters.resolve(name, profile, {}, seed))
    record.write_text(json.dumps({"fingerprint": now, "inputs": inputs or {}, "seconds": 1.0}))
    os.utime(record, (OLD + 11, OLD + 11))


def point_to(root: Path, monkeypatch) -> None:
    """Let the library take `root` for the checkout, its copy of the library included."""
    for name, place in {"ROOT": ".", "BUILD": "_build", "STUBS": "data_stubs", "RECORDS": "book/records"}.items():
        monkeypatch.setattr(files, name, root / place)
    monkeypatch.setattr(run, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(fingerprint, "LIBRARY", root / "lib" / "datafree")
    files.forget_checksums()


@pytest.fixture(scope="session")
def up_to_date(tmp_path_factory):
    """A checkout with a copy of library and notebooks, in which everything is up to date."""
    root = tmp_path_factory.mktemp("checkout")
    for place in ("Snakefile", "_config.yml", "lib/datafree", "notebooks", "data_stubs/SHA256SUMS"):
        source, target = files.ROOT / place, root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, target)
    for place in ("book/index.md", "book/papers/claims.yaml", "book/_ext/claims.py", "tests/test_x.py"):
        touch(root / place, OLD)
    for path in root.rglob("*"):
        os.utime(path, (OLD, OLD))
    with pytest.MonkeyPatch.context() as patch:
        point_to(root, patch)
        made = [f"images/book/{scheme}-{plan.images_key('book')}-seed0.txt" for scheme in plan.SCHEMES]
        for name in ALL:
            record_of_today(name)
    for place in (*made, "ledger.json", "ledger.csv", "equations.md", "pages/ledger.md", "pages", "html/index.html"):
        touch(root / "_build" / place, OLD + 12)
    touch(root / "_build/html/.book", OLD + 20)
    return root


@pytest.fixture
def root(up_to_date, tmp_path, monkeypatch):
    """A copy of `up_to_date` for the test alone."""
    shutil.copytree(up_to_date, tmp_path, dirs_exist_ok=True)
    point_to(tmp_path, monkeypatch)
    yield tmp_path
    files.forget_checksums()


@pytest.fixture
def planned(root, capfd):
    """Plan a build: the runs of chapters, and how often each other step."""

    def plan_of(goal: str = "book", profile: str = "book", seeds: int = 3) -> tuple[list[str], dict[str, int]]:
        build.build(goal, profile, cores=2, seeds=seeds, dry=True)
        first, *steps = capfd.readouterr().out.splitlines()
        runs = first.removeprefix("runs: ").removesuffix("none").split()
        counts = {step: int(number) for step, number in (line.split(": ") for line in steps)}
        assert counts.pop("notebook", 0) == len(runs)
        return [name.removesuffix("-seed0") for name in runs], {k: v for k, v in counts.items() if k != goal}

    return plan_of


def due() -> list[str]:
    """The chapters that a build of the book would run."""
    return [one.notebook for one in plan.due("book", "book")]


DRAWN = {"ledger": 1, "equations": 1, "html": 1}
"""The steps that draw the book when its library or a notebook changed, or a chapter ran."""


def test_nothing_is_made_anew_when_nothing_changed(planned):
    assert planned() == ([], {})


def test_a_changed_paper_runs_the_chapters_that_import_it(root, planned):
    edit(root / "lib/datafree/papers/udfc/reconstruction.py", "\ndef ", "\nADDED = 1\n\n\ndef ")
    assert planned() == (["08_udfc", "13_shootout", "14_beyond", "15_your_network"], DRAWN)


def test_a_changed_docstring_only_draws_pages(root, planned):
    edit(root / "lib/datafree/core/batchnorm.py", '    r"""', '    r"""Said otherwise. ')
    assert planned() == ([], DRAWN)


def test_a_changed_test_only_draws_the_equations(root, planned):
    touch(root / "tests" / "test_x.py", NEW)
    assert planned() == ([], {"equations": 1, "html": 1})


def test_one_value_of_a_profile_runs_one_chapter(root, planned):
    edit(root / "notebooks/profiles/book.yaml", "05_lw_equalization:", "05_lw_equalization: {samples: 77}\n#")
    assert planned() == (["05_lw_equalization"], {"ledger": 1, "html": 1})


def test_what_draws_and_judges_runs_no_chapter(root):
    for place in (
        "book/plots.py",
        "book/show.py",
        "book/parameters.py",
        "evidence/verdict.py",
        "evidence/criteria/udfc.py",
    ):
        edit(root / "lib/datafree" / place, "\nfrom ", "\nADDED = 1\nfrom ")
    touch(root / "lib/datafree/book/ledger.md.j2", NEW)
    assert due() == []


def test_prose_and_extensions_are_only_rendered(root, planned):
    touch(root / "book/index.md", NEW)
    touch(root / "book/_ext/claims.py", NEW)
    assert planned() == ([], {"html": 1})


def test_a_new_committed_record_reaches_the_ledger(root, planned):
    touch(root / "book" / "records" / "book" / "00_start" / "seed1.json", NEW)
    assert planned() == ([], {"ledger": 1, "html": 1})


def change_cell(path: Path, kind: str, text: str) -> None:
    """Append to the last cell of a kind."""
    notebook = nbformat.read(path, 4)
    next(c for c in reversed(notebook.cells) if c.cell_type == kind).source += text
    nbformat.write(notebook, path)
    os.utime(path, (NEW, NEW))


def test_a_changed_text_of_a_notebook_runs_nothing(root):
    change_cell(root / "notebooks/01_kw_synthesis.ipynb", "markdown", "\nAdded.")
    change_cell(root / "notebooks/01_kw_synthesis.ipynb", "code", "\n# a comment")
    assert due() == []


def test_changed_code_of_a_notebook_runs_it_alone(root):
    change_cell(root / "notebooks/01_kw_synthesis.ipynb", "code", "\nx = 1")
    assert due() == ["01_kw_synthesis"]


def test_another_profile_is_another_book(root, planned):
    assert planned(profile="smoke") == (list(ALL), {"ledger": 1, "html": 1, "synthesise": 3})
    assert planned() == ([], {})


def test_an_audit_makes_what_no_record_of_today_stands_for(root, planned):
    fresh = run.places("00_start", "book", 1)[1]
    record_of_today("00_start", seed=1)
    committed = files.RECORDS / "book" / "00_start" / fresh.name
    committed.parent.mkdir(parents=True)
    fresh.rename(committed)
    missing = [f"{name}-seed{seed}" for seed in (1, 2) for name in ALL]
    assert list(map(str, plan.due("audit", "book"))) == [one for one in missing if one != "00_start-seed1"]
    runs, steps = planned("audit", seeds=2)
    assert runs == [f"{name}-seed1" for name in ALL[1:]] and steps == {"synthesise": 3}


def test_what_an_interrupted_audit_has_finished_is_published(root):
    build.publish_records("book")  # seed 0 of every chapter
    record_of_today("08_udfc", seed=1)
    run.places("08_udfc", "book", 2)[1].write_text("{}")
    assert build.publish_records("book") == 1
    assert sorted(path.name for path in (files.RECORDS / "book" / "08_udfc").glob("*")) == ["seed0.json", "seed1.json"]
    assert build.publish_records("book") == 0


def test_a_lost_page_folder_is_rendered_again(root, planned):
    shutil.rmtree(root / "_build" / "html")
    assert planned() == ([], {"html": 1})


def test_changed_settings_of_the_shared_images_make_them_anew_for_that_chapter(root, planned):
    edit(root / "notebooks/profiles/book.yaml", "02_kw_calibration:", "02_kw_calibration: {rate: 0.2}\n#")
    assert planned() == (["02_kw_calibration"], {"ledger": 1, "html": 1, "synthesise": 3})


def test_every_module_runs_exactly_the_chapters_that_depend_on_it(root):
    for place in ("papers/udfc/compression.py", "papers/frandi/selection.py", "baselines/zeroq.py", "core/graph.py"):
        before = (root / "lib/datafree" / place).read_text()
        edit(root / "lib/datafree" / place, "\nfrom ", "\nADDED = 1\nfrom ")
        module = "datafree." + place.removesuffix(".py").replace("/", ".")
        assert due() == [name for name in ALL if module in fingerprint.modules_of(name)] != []
        (root / "lib/datafree" / place).write_text(before)
    assert due() == []


def test_new_data_run_the_chapters_that_read_them(root):
    first, second = [line.split("  ") for line in (root / "data_stubs/SHA256SUMS").read_text().splitlines()[:2]]
    record_of_today("00_start", inputs={first[1]: first[0], "cifar10-stub, 10 images": "0" * 64})
    record_of_today("05_lw_equalization", inputs={second[1]: second[0]})
    assert due() == []
    edit(root / "data_stubs/SHA256SUMS", first[0], "0" * 64)
    files.forget_checksums()
    assert due() == ["00_start"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": 1, "inputs": []}'])
def test_a_record_that_cannot_be_read_is_made_again(root, text):
    run.places("00_start", "book", 0)[1].write_text(text)
    run.places("01_kw_synthesis", "book", 0)[0].unlink()
    assert due() == ["00_start", "01_kw_synthesis"]


def test_the_snakefile_has_the_planners_schemes_and_chapters():
    text = (files.ROOT / "Snakefile").read_text()
    given = {name: re.search(rf"^{name} = (.+)$", text, re.M)[1] for name in ("SCHEMES", "NEEDS_IMAGES")}
    found = {name: eval(value) for name, value in given.items()}
    needing = tuple(name for name in ALL if plan.needs_images(name))
    assert found == {"SCHEMES": plan.SCHEMES, "NEEDS_IMAGES": needing}


def build_in(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "datafree.cli", "build", "book"]
    environment = os.environ | {"DATAFREE_ROOT": str(root)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


def test_a_stale_lock_is_removed_and_the_build_goes_on(root):
    lock = touch(root / ".snakemake" / "locks" / "0.output.lock", NEW)
    lock.write_text(str(root / "_build" / "ledger.json") + "\n")
    done = build_in(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "interrupted" in done.stdout and not lock.exists()


def test_a_left_over_run_is_named_with_a_remedy(root):
    said = pytest.raises(DataFreeError, match=rf"^process {os.getpid()} .*kill {os.getpid()}")
    with locks.sole_writer(root / "_build" / "executed" / "book" / "00_start-seed0.ipynb"), said:
        build.build()


def test_two_builds_do_not_mix(root):
    said = pytest.raises(DataFreeError, match=rf"^another build is running \(process {os.getpid()}\)")
    with locks.sole_writer(root / "_build" / "build"), said:
        build.build()


def test_a_failed_step_ends_with_a_sentence(root):
    (root / "_build" / "ledger.json").unlink()  # the claims of this checkout are empty, so the ledger cannot be drawn
    done = build_in(root)
    assert done.returncode == 2
    assert "datafree: the build stopped" in done.stderr.splitlines()[-1]
    assert (root / "_build" / "html" / "index.html").is_file()


def test_text_is_staged_as_it_is_now_with_the_outputs_of_the_run():
    code = lambda source, outputs=(): {  # noqa: E731
        "cell_type": "code", "source": source, "metadata": {}, "outputs": list(outputs), "execution_count": 7,
    }  # fmt: skip
    text = lambda source: {"cell_type": "markdown", "source": source, "metadata": {}}  # noqa: E731
    shown = {"output_type": "display_data", "data": {"text/plain": "1"}, "metadata": {}}
    injected = code("steps = 3") | {"metadata": {"tags": ["injected-parameters"]}}
    ran = {"cells": [text("old"), injected, code("a = 1"), code("f()", [shown])]}
    now = {"cells": [text("new"), text("more"), code("a = 1  # why"), code("f()")]}
    merged = build.merged(now, ran, "x")["cells"]
    assert [c["source"] for c in merged] == ["new", "more", "a = 1  # why", "f()"]
    assert merged[3]["outputs"] == [shown]
    with pytest.raises(DataFreeError, match="run of 'x' has other cells"):
        build.merged({"cells": [code("a = 1")]}, ran, "x")


def test_swapping_folders_leaves_no_third(tmp_path):
    for name in ("fresh", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    swap(tmp_path / "fresh", tmp_path / "place")
    assert [p.name for p in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "file").read_text() == "fresh"
