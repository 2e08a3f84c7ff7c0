"""What a build says while it runs: chapters done, those at work, and the minutes to expect from earlier runs."""

from __future__ import annotations

import contextlib
import heapq
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .. import files
from ..evidence.record import cost

EVERY = 1.0
"""Seconds between two looks."""


def expected(notebook: str, profile: str) -> float | None:
    """Seconds that a run may take, by the last one on record; None where there is none."""
    last = cost(notebook, profile)
    return last.seconds if last else None


def seconds_left(running: Iterable[float], waiting: Iterable[float], cores: int) -> float:
    """When the last run ends if each core takes the longest that waits, given the seconds that are left of those at work."""
    ends = sorted(running)[-cores:]
    ends += [0.0] * (cores - len(ends))
    heapq.heapify(ends)
    for seconds in sorted(waiting, reverse=True):
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def in_words(seconds: float) -> str:
    """'about 3 minutes', 'less than a minute'."""
    minutes = round(seconds / 60)
    return "less than a minute" if minutes < 1 else f"about {minutes} minute{'s' if minutes > 1 else ''}"


class Progress:
    """The runs of one build, as their files show them: a log means begun, a record written since the start means done."""

    def __init__(self, runs: Sequence[tuple[str, int]], profile: str, cores: int):
        self.runs, self.profile, self.cores = runs, profile, cores
        self.start = time.time()
        known = {one: expected(one[0], profile) for one in runs}
        costs = [seconds for seconds in known.values() if seconds is not None]
        self.known = bool(costs)
        usual = sum(costs) / len(costs) if costs else 0.0
        self.costs = {one: usual if seconds is None else seconds for one, seconds in known.items()}
        self.said = self.seen = ""

    def _since(self, path: Path) -> float | None:
        """When a file was written, if that was in this build."""
        with contextlib.suppress(OSError):
            if (when := path.stat().st_mtime) >= self.start:
                return when
        return None

    def line(self, now: float) -> str:
        """What there is to say now."""
        done, running, waiting = 0, {}, []
        for (name, seed), seconds in self.costs.items():
            if self._since(files.BUILD / "records" / self.profile / name / f"seed{seed}.json"):
                done += 1
            elif begun := self._since(files.BUILD / "logs" / f"{self.profile}-{name}-seed{seed}.begun"):
                running[name if not seed else f"{name} (seed {seed})"] = max(0.0, seconds - (now - begun))
            else:
                waiting.append(seconds)
        said = f"{done} of {len(self.runs)} chapters done"
        if running:
            said += f"; running {', '.join(running)}"
        if self.known:
            said += f"; {in_words(seconds_left(running.values(), waiting, self.cores))} to go"
        return said

    def tell(self, at_once: bool = False) -> None:
        """Print the line when a run has begun or ended; not while one ends and the next begins."""
        line = self.line(time.time())
        news = line.partition("; about")[0].partition("; less")[0]
        if news != self.said and (at_once or news == self.seen):
            print(line, flush=True)
            self.said = news
        self.seen = news


@contextlib.contextmanager
def shown(runs: Sequence[tuple[str, int]], profile: str, cores: int) -> Iterator[None]:
    """Print the progress of these runs until the block ends."""
    if not runs:
        yield
        return
    progress, over = Progress(runs, profile, cores), threading.Event()

    def watch() -> None:
        progress.tell()
        while not over.wait(EVERY):
            progress.tell()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        progress.tell(at_once=True)
