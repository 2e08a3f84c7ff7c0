"""The run graph: what a change makes anew, and what an interrupted build leaves. Nothing heavy is run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datafree import files
from datafree.book import locks, parameters
from datafree.book.build import MARKER, swap

SCHEMES = ("inception", "bns", "bns_inception")
OLD, NEW = 1_700_000_000, 1_800_000_000
"""Two times of modification: everything was made at NEW from what was written at OLD."""


def touch(path: Path, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return path


@pytest.fixture
def root(tmp_path):
    """A checkout in which everything is up to date, with empty files for sources and results."""
    shutil.copy(files.ROOT / "Snakefile", tmp_path)
    os.utime(tmp_path / "Snakefile", (OLD, OLD))
    sources = ["_config.yml", "data_stubs/SHA256SUMS", "notebooks/profiles/book.yaml", "notebooks/profiles/smoke.yaml"]
    sources += ["book/index.md", "book/papers/claims.yaml", "tests/test_x.py"]
    sources += [p.relative_to(files.ROOT).as_posix() for p in (files.ROOT / "lib" / "datafree").rglob("*.py")]
    sources += [f"notebooks/{name}.ipynb" for name in parameters.NOTEBOOKS]
    results = [f"_build/images/book/{scheme}-seed0.txt" for scheme in SCHEMES]
    for name in parameters.NOTEBOOKS:
        results += [f"_build/executed/book/{name}-seed0.ipynb", f"_build/records/book/{name}/seed0.json"]
    for source in sources:
        touch(tmp_path / source, OLD)
    for step, group in enumerate(
        (
            results[: len(SCHEMES)],
            results[len(SCHEMES) :],
            ["_build/ledger.json", "_build/ledger.csv", "_build/pages/ledger.md"],
        )
    ):
        for result in group:
            touch(tmp_path / result, OLD + 10 + step)
    os.utime(tmp_path / "_build/pages", (OLD + 12, OLD + 12))
    touch(tmp_path / "_build/html/index.html", OLD + 20)
    (tmp_path / "_build/html" / MARKER).write_text("book")
    touch(tmp_path / "_build/html" / MARKER, OLD + 20)
    return tmp_path


def planned(root: Path, goal: str = "book", profile: str = "book") -> dict[str, int]:
    """How often each rule would run."""
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--rerun-triggers", "mtime", "--config"]
    done = subprocess.run([*command, f"profile={profile}", "--", goal], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rules = re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.M)
    return {rule: rules.count(rule) for rule in rules if rule != goal}


def test_nothing_is_made_anew_when_nothing_changed(root):
    assert planned(root) == {}


def test_a_changed_notebook_runs_alone(root):
    touch(root / "notebooks" / "01_kw_synthesis.ipynb", NEW)
    assert planned(root) == {"notebook": 1, "ledger": 1, "html": 1}


def test_a_changed_library_makes_images_and_notebooks_anew(root):
    touch(root / "lib" / "datafree" / "core" / "batchnorm.py", NEW)
    assert planned(root) == {"synthesise": 3, "notebook": len(parameters.NOTEBOOKS), "ledger": 1, "html": 1}


def test_what_only_draws_changes_no_images(root):
    touch(root / "lib" / "datafree" / "book" / "plots.py", NEW)
    assert planned(root) == {"notebook": len(parameters.NOTEBOOKS), "ledger": 1, "html": 1}


@pytest.mark.parametrize("name", ["book/ledger.md.j2", "book/locks.py", "evidence/ledger.py"])
def test_what_only_assembles_the_book_runs_no_notebook(root, name):
    touch(root / "lib" / "datafree" / name, NEW)
    assert planned(root) == {"ledger": 1, "html": 1}


def test_prose_is_only_rendered(root):
    touch(root / "book" / "index.md", NEW)
    assert planned(root) == {"html": 1}


def test_a_new_committed_record_reaches_the_ledger(root):
    touch(root / "book" / "records" / "book" / "00_start" / "seed1.json", NEW)
    assert planned(root) == {"ledger": 1, "html": 1}


JUDGING = ("evidence/criteria/layerwise.py", "evidence/verdict.py", "evidence/compare.py", "book/effects.py")


@pytest.mark.parametrize("name", [f"lib/datafree/{name}" for name in JUDGING] + ["book/_ext/claims.py"])
def test_what_judges_or_draws_claims_runs_no_notebook(root, name):
    touch(root / name, NEW)
    assert planned(root) == {"ledger": 1, "html": 1}


def test_new_data_make_everything_anew(root):
    touch(root / "data_stubs" / "SHA256SUMS", NEW)
    assert planned(root)["synthesise"] == 3


def test_another_profile_is_another_book(root):
    assert planned(root, profile="smoke") == {
        "synthesise": 3,
        "notebook": len(parameters.NOTEBOOKS),
        "ledger": 1,
        "html": 1,
    }


def test_a_lost_page_folder_is_rendered_again(root):
    shutil.rmtree(root / "_build" / "html")
    assert planned(root) == {"html": 1}


def test_the_audit_has_five_seeds_and_uses_what_there_is(root):
    assert planned(root, "audit") == {"synthesise": 12, "notebook": 4 * len(parameters.NOTEBOOKS)}


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
    with locks.sole_writer(root / "_build" / "executed" / "book" / "00_start-seed0.ipynb"):
        done = build_in(root)
    assert done.returncode == 2
    assert re.fullmatch(rf"datafree: process {os.getpid()} .*kill {os.getpid()}.*\n", done.stderr)


def test_two_builds_do_not_mix(root):
    with locks.sole_writer(root / "_build" / "build"):
        done = build_in(root)
    assert done.returncode == 2
    assert re.fullmatch(rf"datafree: another build is running \(process {os.getpid()}\).*\n", done.stderr)


def test_a_failed_step_ends_with_a_sentence(root):
    (root / "_build" / "ledger.json").unlink()  # the claims of this checkout are empty, so the ledger cannot be drawn
    done = build_in(root)
    assert done.returncode == 2
    assert "datafree: the build stopped" in done.stderr.splitlines()[-1]
    assert (root / "_build" / "html" / "index.html").is_file()


def test_swapping_folders_leaves_no_third(tmp_path):
    for name in ("fresh", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    swap(tmp_path / "fresh", tmp_path / "place")
    assert [p.name for p in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "file").read_text() == "fresh"
