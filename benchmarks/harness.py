"""Cases and how they are timed: both sides in turns, in one process, on one thread, by CPU seconds.

    @case("range search", group="...", ours="...", theirs="...", share=0.0004)
    def range_search() -> Sides: ...

A case builds its two sides; nothing of that is timed. Every other file of this folder registers its cases where it
defines them, so no list needs a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from datafree.book.bench import Absent, Comparison, Growth, Spread
from datafree.book.bench import Sides as Pair
from datafree.core.cost import measured
from datafree.errors import DataFreeError

BUDGET = 1.5
"""Seconds that the repeats of one case may take, beyond the fewest."""

FEWEST, MOST = 3, 9
"""Repeats of a case."""

LONG = 10.0
"""Seconds of a pair above which two repeats do: noise of milliseconds is no part of them."""

SHORT = 0.02
"""Seconds below which a function is called several times for one measurement."""

Function = Callable[..., Any]


@dataclass
class Sides:
    """Two ways to do one thing.

    times: how often one call does it. fresh: makes what both are given, outside of the clock.
    difference: of what the two return, relative; None where they need not agree.
    points: accuracy of what each returns, in percent.
    """

    ours: Function
    theirs: Function
    times: int = 1
    fresh: Callable[[], Any] | None = None
    difference: Callable[[Any, Any], float] | None = None
    points: Callable[[Any], float] | None = None


@dataclass(frozen=True)
class Case:
    """What is compared with what; `build` gives the sides, or pairs of seconds that it took itself.

    share: of their work that is timed, where the rest is alike. needs: a package that it cannot do without.
    when: a sentence where the case cannot be run on this machine, else nothing.
    """

    name: str
    group: str
    ours: str
    theirs: str
    build: Callable[[], Sides | Sequence[tuple[float, float]]]
    share: float = 1.0
    needs: str = ""
    when: Callable[[], str] = str
    note: str = ""


CASES: dict[str, Case] = {}
"""Name -> case, in the order they run."""

GROWTHS: dict[str, tuple] = {}
"""Name -> the arguments of `run_growth`."""


def case(name: str, **words: Any) -> Callable:
    """Register the function below as the builder of a case; for the words see `Case`."""

    def register(build: Callable) -> Callable:
        if name in CASES:
            raise DataFreeError(f"the case '{name}' is registered twice; give one of them another name.")
        CASES[name] = Case(name, build=build, **words)
        return build

    return register


def growth(name: str, axes: dict[str, Sequence[int]], times: int = 1) -> Callable:
    """Register the function below: (axis, size) -> what is timed at this size of the axis, and does it so many times."""

    def register(make: Callable[[str, int], Function]) -> Callable:
        for axis, sizes in axes.items():
            GROWTHS[f"{name} over {axis}"] = (name, axis, sizes, make, times)
        return make

    return register


# Clocks ---------------------------------------------------------------------------------------------------------------


def clock(function: Function, fresh: Callable[[], Any] | None = None, calls: int = 1) -> float:
    """CPU seconds of one call, as the mean of `calls`."""
    total = 0.0
    for _ in range(calls):
        given = [fresh()] if fresh else []
        start = time.process_time()
        function(*given)
        total += time.process_time() - start
    return total / calls


def _warmed(function: Function, fresh: Callable[[], Any] | None) -> tuple[Any, float | None, float]:
    """What the first call returns, its peak of memory, and the CPU seconds of a second one where the first was short."""
    given = [fresh()] if fresh else []
    with measured() as cost:
        result = function(*given)
    return result, cost.peak_mb, clock(function, fresh) if cost.cpu_seconds < 1 else cost.cpu_seconds


def run_case(one: Case, budget: float = BUDGET) -> Comparison | Absent:
    """Time both sides in turns; or say why the case cannot be run here."""
    why = f"the package '{one.needs}' is not installed" if one.needs and find_spec(one.needs) is None else one.when()
    if why:
        return Absent(name=one.name, group=one.group, theirs=one.theirs, reason=why)
    sides = one.build()
    words = {"name": one.name, "group": one.group, "ours": one.ours, "theirs": one.theirs, "note": one.note}
    if not isinstance(sides, Sides):
        return _compared(list(sides), words, share=1.0, times=1)
    found = [_warmed(function, sides.fresh) for function in (sides.ours, sides.theirs)]
    (result, ours_mb, a), (reference, theirs_mb, b) = found
    calls = max(1, round(SHORT / max(min(a, b), 1e-6)))
    fewest = FEWEST if a + b < LONG else 2
    repeats = int(np.clip(budget / (calls * (a + b)), fewest, MOST))
    # where a call is long, nothing is left to warm up, and the first one counts
    pairs = [(a, b)] * (a + b > budget)
    while len(pairs) < repeats:
        pairs.append((clock(sides.ours, sides.fresh, calls), clock(sides.theirs, sides.fresh, calls)))
    if ours_mb is not None:
        words["peak_mb"] = Pair(ours=ours_mb, theirs=theirs_mb)
    if sides.difference:
        words["difference"] = sides.difference(result, reference)
    if sides.points:
        words["points"] = Pair(ours=sides.points(result), theirs=sides.points(reference))
    return _compared(pairs, words, one.share, sides.times)


def _compared(pairs: list[tuple[float, float]], words: dict, share: float, times: int) -> Comparison:
    """Medians, and the ratio pair by pair; what was not timed of theirs takes as long again."""
    pairs = [(a / times, b / times / share) for a, b in pairs]
    ours, theirs = (float(np.median([pair[i] for pair in pairs])) for i in (0, 1))
    return Comparison(
        seconds=Pair(ours=ours, theirs=theirs), ratio=Spread.of([a / b for a, b in pairs]), repeats=len(pairs),
        share=share, **words,
    )  # fmt: skip


def run_growth(
    name: str, axis: str, sizes: Sequence[int], make: Callable[[str, int], Function], times: int = 1, repeats: int = 3
) -> Growth:  # fmt: skip
    """Seconds at each size, the sizes in turns, and the slope of each turn in logarithms."""
    functions = [make(axis, size) for size in sizes]
    calls = [max(1, round(SHORT / max(_warmed(function, None)[2], 1e-6))) for function in functions]
    turns = [[clock(f, calls=n) / times for f, n in zip(functions, calls)] for _ in range(repeats)]
    slopes = [float(np.polyfit(np.log(sizes), np.log(turn), 1)[0]) for turn in turns]
    return Growth(
        name=name, axis=axis, sizes=[float(s) for s in sizes], seconds=[Spread.of(s) for s in zip(*turns)],
        slope=Spread.of(slopes),
    )  # fmt: skip


def furthest(ours: Any, theirs: Any) -> float:
    """The largest difference of two lists of numbers or tensors, relative to the largest value of the second."""
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (ours, theirs))
    return float((a - b).abs().max() / b.abs().max())


def run_all(names: Sequence[str], tell: Callable[[str], object]) -> Iterator[Comparison | Absent | Growth]:
    """All cases and growths, or those whose name holds one of `names`."""
    wanted = [n for n in (*CASES, *GROWTHS) if not names or any(part in n for part in names)]
    if not wanted:
        raise DataFreeError(f"no case is called {' or '.join(names)}; there are: {'; '.join((*CASES, *GROWTHS))}.")
    for name in wanted:
        tell(name)
        torch.manual_seed(0)
        yield run_case(CASES[name]) if name in CASES else run_growth(*GROWTHS[name])
