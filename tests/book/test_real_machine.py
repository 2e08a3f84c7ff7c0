"""Places that are full, read-only or oddly named, and builds that get in each other's way or are ended anywhere."""

import contextlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading

import psutil
import pytest
from tests.book.test_build import ALL, root, up_to_date  # noqa: F401
from tests.book.test_ending import ignoring, wait_for
from tests.book.test_run import NAME, WRITE_RECORD, left_in, small_root, write_notebook

from datafree import files
from datafree.evidence import record
from datafree.evidence.compare import compare

SLOW = "import threading\nthreading.Event().wait(1.0)"
CHAOS = int(os.environ.get("DATAFREE_CHAOS", 1))
"""Random moments and signals to try."""


def command(checkout, *arguments, said=subprocess.PIPE, sigint=True, **more) -> subprocess.Popen:
    """`datafree ARGUMENTS` at work on a checkout, perhaps started where SIGINT is ignored."""
    return subprocess.Popen(
        [sys.executable, "-m", "datafree.cli", *arguments],
        cwd=checkout, env=os.environ | {"DATAFREE_ROOT": str(checkout)} | more, text=True, stdout=said, stderr=subprocess.STDOUT,
        preexec_fn=None if sigint else ignoring(signal.SIGINT),
    )  # fmt: skip


def run_of(checkout, *more, **options) -> subprocess.Popen:
    return command(checkout, "run", NAME, "--profile", "smoke", "--no-bar", *more, **options)


def build_of(checkout, **options) -> subprocess.Popen:
    return command(checkout, "build", "notebooks", "--cores", "1", **options)


def answer(process: subprocess.Popen, seconds: float = 180) -> tuple[int, str]:
    """Exit code, and what was said in all."""
    said = process.communicate(timeout=seconds)[0]
    return process.returncode, said


@pytest.fixture
def one_due(root):  # noqa: F811
    """A checkout in which all is up to date but one chapter, which takes two seconds."""
    write_notebook(root / "notebooks", SLOW, SLOW, WRITE_RECORD)
    return root


def record_in(checkout) -> dict:
    return json.loads((checkout / "_build" / "records" / "book" / NAME / "seed0.json").read_text())


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB, and what makes it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (it takes root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_sentence_and_free_space_mends_it(tmp_path, small_disk):
    checkout = small_root(tmp_path, "print('x' * (300_000 if seed else 10))", WRITE_RECORD)
    places = {"out": small_disk / "out" / "x.ipynb", "record": small_disk / "record" / "x.json"}
    where = [str(part) for key, path in places.items() for part in (f"--{key}", path)]
    code, said = answer(run_of(checkout, "--seed", "1", *where))
    assert code == 2 and re.fullmatch(r"datafree: cannot write .*No space left.*\n", said.splitlines(True)[-1])
    assert "Traceback" not in said and left_in(small_disk) == set()
    assert answer(run_of(checkout, *where))[0] == 0 and left_in(small_disk) == {"x.ipynb", "x.json"}


def test_a_read_only_checkout_is_one_sentence_or_writes_elsewhere(tmp_path, small_disk):
    shutil.copytree(small_root(tmp_path, WRITE_RECORD), small_disk / "checkout")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, said = answer(run_of(small_disk / "checkout"))
    assert code == 2 and re.fullmatch(r"datafree: cannot write .*\n", said)
    elsewhere = ("--out", str(tmp_path / "out" / "x.ipynb"), "--record", str(tmp_path / "record" / "x.json"))
    code, said = answer(run_of(small_disk / "checkout", *elsewhere))
    assert code == 0 and "Traceback" not in said and left_in(tmp_path) == {"x.ipynb", "x.json"}


def test_two_builds_at_once_are_one_build_and_one_sentence(one_due):
    both = [build_of(one_due) for _ in range(2)]
    answers = sorted(map(answer, both))
    assert [code for code, _ in answers] == [0, 2]
    assert re.search(r"^datafree: another build is running \(process \d+\)", answers[1][1], re.M)
    assert record_in(one_due)["notebook"] == NAME


def test_a_build_in_a_path_with_spaces_and_umlauts_under_the_plainest_locale(one_due):
    odd = one_due.parent / "mein Büchlein 書 'x' $HOME"
    shutil.copytree(one_due, odd)
    code, said = answer(build_of(odd, LC_ALL="C", LANG="C", HOME="/nowhere"))
    assert code == 0 and "Traceback" not in said, said
    assert record_in(odd)["notebook"] == NAME


def tree(process: subprocess.Popen) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return []


def finish(checkout, start=build_of, seconds: float = 180) -> None:
    """Start the build until it completes, and do what its sentence asks for: end a process that was left behind."""
    for _ in range(4):
        code, said = answer(start(checkout), seconds)
        assert "Traceback" not in said, said
        if code == 0:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(int(re.search(r"'kill (\d+)'", said)[1])).terminate()
        threading.Event().wait(1.0)
    raise AssertionError(said)


@pytest.mark.parametrize("seed", range(CHAOS))
def test_a_build_ended_anywhere_at_any_moment_is_made_again(one_due, seed):
    """Supervisor, Snakemake, run or kernel, by any signal, whether or not SIGINT was ignored at the start."""
    rng = random.Random(seed)
    building = build_of(one_due, sigint=rng.random() < 0.5)
    wait_for(lambda: len(tree(building)) > 1)
    threading.Event().wait(rng.uniform(0, 6))
    if victims := tree(building):
        with contextlib.suppress(psutil.NoSuchProcess):
            rng.choice(victims).send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
    answer(building)
    finish(one_due)
    assert record_in(one_due) == {"notebook": NAME, "seed": 0, "images": 2000}
    assert list((one_due / "_build").rglob(".*-draft-*")) == []


def smoke_of(checkout, **options) -> subprocess.Popen:
    own = {"PYTHONPATH": str(checkout / "lib")}
    return command(checkout, "build", "notebooks", "--profile", "smoke", **own, **options)


def smoke_records(checkout) -> dict:
    """Chapter -> its record."""
    paths = {name: checkout / "_build" / "records" / "smoke" / name / "seed0.json" for name in ALL}
    return {name: record.read(path) for name, path in paths.items()}


def same_but_for_cost(first: dict, second: dict) -> bool:
    """Whether two records have the same inputs, the same answers to every image, and the same numbers but for times.

    A number that is itself a rounding error, 1e-15 say, may be another one where memory lies elsewhere.
    """
    found = compare(first, second)
    moved = [m for m in found.moved if not math.isclose(m.first, m.second, rel_tol=1e-9, abs_tol=1e-12)]
    return all(first[key] == second[key] for key in ("inputs", "hits")) and not moved and found.same > 0


CALM, HOUR = "ein ruhiges Büchlein 書", 3600


@pytest.mark.chaos
def test_the_short_book_survives_many_ends(tmp_path):
    """Its build is ended DATAFREE_CHAOS times and goes on each time; the records equal those of an undisturbed build."""
    for place in (CALM, "wild"):
        skip = shutil.ignore_patterns(".git", ".venv", "_build", ".snakemake", "__pycache__")
        shutil.copytree(files.ROOT, tmp_path / place, ignore=skip, symlinks=True)
    rng = random.Random(0)
    for _ in range(CHAOS):
        building = smoke_of(tmp_path / "wild", sigint=rng.random() < 0.5, said=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            building.wait(rng.uniform(3, 40))
        if victims := tree(building):
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(victims).send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        building.wait(600)
    finish(tmp_path / "wild", smoke_of, HOUR)
    assert answer(smoke_of(tmp_path / CALM), HOUR)[0] == 0
    wild, calm = smoke_records(tmp_path / "wild"), smoke_records(tmp_path / CALM)
    assert [name for name in ALL if not same_but_for_cost(wild[name], calm[name])] == []
