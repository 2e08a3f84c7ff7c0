"""One writer for each result: a lock file beside it says which process is at work, and its death releases the lock."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import DataFreeError
from ..files import unwritable


def lock_path(out: Path) -> Path:
    """The file that the one process which writes `out` holds locked."""
    return out.with_name(f".{out.stem}.lock")


def busy_sentence(out: Path, process: str | None) -> str:
    """What to say when another process is at work on `out`."""
    return (
        f"process {process or 'unknown'} is still writing '{out}', perhaps left over from an interrupted build; "
        f"wait for it, or end it with 'kill {process or 'PID'}' and try again."
    )


@contextlib.contextmanager
def sole_writer(out: Path, sentence: Callable[[Path, str | None], str] = busy_sentence) -> Iterator[int]:
    """Hold the lock of `out`; DataFreeError (by `sentence`) names the process that has it already. Death releases it.

    Yields:
        the descriptor of the lock's file; a child that inherits it holds the lock as long as it lives.
    """
    descriptors: list[int] = []
    # Only the system's lock will do, which no dead process can keep: no soft lock where there is none.
    lock = FileLock(lock_path(out), timeout=0, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DataFreeError(sentence(out, holder(lock_path(out)))) from None
    except OSError as error:
        raise unwritable(out, error) from None
    try:
        name_holder(descriptors[0], os.getpid())
        yield descriptors[0]
    finally:
        lock.release()


def name_holder(descriptor: int, process: int) -> None:
    """Write into the lock's file which process to name to others."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(process).encode(), 0)


def holder(lock: Path) -> str | None:
    """The process number that holds `lock`, or None if nobody does."""
    if not lock.is_file():
        return None
    try:
        with FileLock(lock, timeout=0, fallback_to_soft=False):
            return None
    except Timeout:
        return lock.read_text().strip() or "unknown"
    except OSError:
        return None
