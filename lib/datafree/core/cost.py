"""What a piece of work costs: seconds, and memory at its peak above what was held before."""

from __future__ import annotations

import ctypes
import functools
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROCESS = Path("/proc/self")
"""Where Linux says how much memory this process holds, and lets it forget the peak so far."""

RESET_PEAK = "5"
"""What makes Linux set the peak to the present value (proc(5), clear_refs)."""


@dataclass
class Cost:
    """seconds: wall time; cpu_seconds: of all cores together, so that other work on the machine does not count.

    peak_mb: of memory, None where the system does not say.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_mb: float | None = None


def _held(name: str) -> float:
    line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


@functools.cache
def _settle() -> None:
    """Let every later collection pass over what is alive at the first one: imported modules, mostly, a tenth of a second."""
    gc.collect()
    gc.freeze()


@contextmanager
def measured() -> Iterator[Cost]:
    """Fill the yielded Cost at the end of the block.

    Memory is that of the whole process, by the system's count, so arrays, images and scratch of the kernels all count.
    """
    cost, before = Cost(), None
    _settle()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, or work that takes it again looks free
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
        before = _held("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds, cost.cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        cost.peak_mb = None if before is None else max(0.0, _held("VmHWM") - before)
