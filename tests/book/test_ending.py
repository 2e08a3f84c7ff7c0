"""Builds and runs that are ended from outside: nothing of them goes on, and the next one completes.

DATAFREE_CHAOS=20 tries that many random moments and signals; without it there are three.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from tests.book.test_run import NAME, WRITE_RECORD, small_root

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

STUBBORN = """\
import os, signal, subprocess, sys, threading
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "last"], start_new_session=True)
os.makedirs(sys.argv[1], exist_ok=True)
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
threading.Event().wait(600)
"""

SUPERVISOR = """\
import sys, typer
from pathlib import Path
from datafree import cli, files
from datafree.book import build, locks
build.PATIENCE, files.BUILD = 0.5, Path(sys.argv[2]).parent / "_build"
try:
    with cli.one_sentence(), locks.sole_writer(files.BUILD / "build", lambda *_: "busy") as lock:
        build._supervise([sys.executable, sys.argv[1], sys.argv[2]], lock)
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def ignoring(number: signal.Signals):
    """What makes a child ignore a signal from its start, as `command &` does in a script; no other, whatever we ignore."""

    def prepare() -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN if other == number else signal.SIG_DFL)

    return prepare


def wait_for(question):
    end = time.monotonic() + 120
    while not (answer := question()):
        assert time.monotonic() < end, "never happened"
        threading.Event().wait(0.05)
    return answer


@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: n.name)
def test_a_tree_that_ignores_every_signal_is_ended(tmp_path, number):
    """Started where SIGINT is ignored; the second process is in a session of its own, as kernels are."""
    program, pids = tmp_path / "stubborn.py", tmp_path / "pids"
    program.write_text(STUBBORN)
    draft = tmp_path / "_build" / "executed" / "book" / ".x.ipynb-draft-1"
    draft.mkdir(parents=True)
    command = [sys.executable, "-c", SUPERVISOR, str(program), str(pids)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=ignoring(signal.SIGINT))
    wait_for(lambda: pids.is_dir() and len(list(pids.iterdir())) == 2)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and said == "datafree: interrupted; run the same command again to go on.\n"
    alive = [int(p.name) for p in pids.iterdir() if psutil.pid_exists(int(p.name))]
    assert [n for n in alive if psutil.Process(n).status() != psutil.STATUS_ZOMBIE] == []
    assert not draft.exists()


def run(root, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "datafree.cli", "run", NAME, "--profile", "smoke", "--no-bar"]
    where = os.environ | {"DATAFREE_ROOT": str(root)}
    return subprocess.Popen(command, env=where, text=True, stderr=subprocess.PIPE, **options)


def kernels_of(process: subprocess.Popen) -> list[psutil.Process]:
    return [c for c in psutil.Process(process.pid).children(recursive=True) if "ipykernel_launcher" in c.cmdline()]


@pytest.mark.parametrize("seed", range(int(os.environ.get("DATAFREE_CHAOS", 3))))
def test_a_run_ended_at_a_random_moment_is_made_again(tmp_path, seed):
    """Kernel or run, by any signal, whether or not it ignores SIGINT; the next run makes what an undisturbed one makes."""
    rng = random.Random(seed)
    slow = "import threading\nthreading.Event().wait(1.0)"
    root = small_root(tmp_path, slow, slow, WRITE_RECORD)
    process = run(root, preexec_fn=ignoring(signal.SIGINT) if rng.random() < 0.5 else None)
    kernel = wait_for(lambda: kernels_of(process))[0]
    threading.Event().wait(rng.uniform(0, 2.5))
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    kernel.kill() if rng.random() < 0.3 else process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert "Traceback" not in said
    wait_for(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)

    again = run(root)
    assert "datafree:" not in again.communicate(timeout=120)[1] and again.returncode == 0
    record = root / "_build" / "records" / "smoke" / NAME / "seed0.json"
    assert json.loads(record.read_text())["seed"] == 0
    assert list((root / "_build").rglob(".*-draft-*")) == []
