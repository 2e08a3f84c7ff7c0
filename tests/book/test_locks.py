"""One writer for each result: who is refused, who is named, and what releases the lock."""

import os
import signal
import subprocess
import sys

import pytest

from datafree.book import locks
from datafree.errors import DataFreeError

HOLD = """\
import subprocess, sys, time
from pathlib import Path
from datafree.book import locks
with locks.sole_writer(Path(sys.argv[1])) as lock:
    child = None
    if "with a child" in sys.argv:
        child = subprocess.Popen(["sleep", "600"], pass_fds=(lock,), stdout=subprocess.DEVNULL)
        locks.name_holder(lock, child.pid)
    print(child and child.pid, flush=True)
    time.sleep(600)
"""


def in_another_process(out, *options: str) -> tuple[subprocess.Popen, str]:
    """A process that holds the lock of `out`, and what it says about its child."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out), *options], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_a_second_writer_is_told_who_is_first(tmp_path):
    out = tmp_path / "folder" / "x.ipynb"
    with locks.sole_writer(out):
        for _ in range(2):  # being refused does not change who is named
            with (
                pytest.raises(DataFreeError, match=f"process {os.getpid()} .*kill {os.getpid()}"),
                locks.sole_writer(out),
            ):
                pass
        assert locks.holder(locks.lock_path(out)) == str(os.getpid())
    assert locks.holder(locks.lock_path(out)) is None


def test_death_releases_the_lock(tmp_path):
    out = tmp_path / "x.ipynb"
    process, _ = in_another_process(out)
    with pytest.raises(DataFreeError, match=f"process {process.pid} "), locks.sole_writer(out):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locks.sole_writer(out):
        assert locks.holder(locks.lock_path(out)) == str(os.getpid())


def test_a_child_that_inherits_the_lock_outlives_its_parent_as_the_holder(tmp_path):
    out = tmp_path / "x.ipynb"
    parent, child = in_another_process(out, "with a child")
    parent.kill()
    parent.wait()
    try:
        assert locks.holder(locks.lock_path(out)) == child
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_sentence_of_ones_own(tmp_path):
    with locks.sole_writer(tmp_path / "x"):
        busy = locks.sole_writer(tmp_path / "x", lambda out, process: f"{process} has {out.name}.")
        with pytest.raises(DataFreeError, match=f"^{os.getpid()} has x.$"), busy:
            pass


def test_nobody_holds_what_is_not_there(tmp_path):
    assert locks.holder(tmp_path / ".x.lock") is None and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFreeError, match="cannot write"), locks.sole_writer(tmp_path / "file" / "x"):
        pass
