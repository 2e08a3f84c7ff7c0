"""Run all cases, or those whose name holds a word, print a table and write _build/bench.json with its schema."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

import torch

from datafree import files
from datafree.book import bench
from datafree.core.provenance import provenance
from datafree.errors import DataFreeError

from . import book, load, quantization, reconstruction, selection, synthesis, training  # noqa: F401 (they register their cases)
from .harness import run_all

FEATURES = {
    "_is_avx2_supported": "AVX2",
    "_is_avx512_supported": "AVX-512",
    "_is_vnni_supported": "VNNI",
    "_is_avx512_bf16_supported": "AVX-512 bf16",
    "_is_amx_tile_supported": "AMX",
}
"""PyTorch's question to the processor -> what is there if it says yes."""


def machine() -> str:
    """System, processor, what it can do that matters here, cores and threads; no names."""
    able = [word for name, word in FEATURES.items() if getattr(torch.cpu, name, bool)()]
    parts = [platform.system(), platform.machine(), f"with {', '.join(able)}" if able else ""]
    return " ".join(p for p in parts if p) + f", {os.cpu_count()} cores, {torch.get_num_threads()} thread"


def line(row: bench.Comparison | bench.Absent | bench.Growth) -> str:
    """One row of the table on the terminal."""
    if isinstance(row, bench.Absent):
        return f"{'–':>24}  {row.name}: {row.reason}"
    if isinstance(row, bench.Growth):
        return f"{bench.ratio_text(row.slope):>24}  slope of {row.name} over {row.axis}"
    points = f"; {row.points.ours:.1f} and {row.points.theirs:.1f} % right" if row.points else ""
    times = f"{bench.duration(row.seconds.ours)} and {bench.duration(row.seconds.theirs)}"
    return f"{bench.ratio_text(row.ratio):>24}  {row.name} ({times}{points})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="words that a case's name must hold one of; default: all cases")
    parser.add_argument("--out", type=Path, default=files.BUILD / "bench.json", help="where the record goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, found = (time.perf_counter(), spent()), []
    for row in run_all(options.names, lambda name: print(f"... {name}", file=sys.stderr, flush=True)):
        print(line(row), flush=True)
        found.append(row)
    path = write(found, time.perf_counter() - start[0], spent() - start[1], options.out)
    print(f"written: {path}")


def spent() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return time.process_time() + book.spent()


def write(found: list, seconds: float, cpu_seconds: float, path: Path) -> Path:
    """The record of a run, and the schema beside it."""
    made = provenance()
    kinds = {"comparisons": bench.Comparison, "absent": bench.Absent, "growth": bench.Growth}
    record = bench.Bench(
        command="make bench", written=made["written"], commit=made["git"]["commit"], machine=machine(), seconds=seconds,
        cpu_seconds=cpu_seconds,
        packages={name: made["packages"][name] for name in ("torch", "numpy")} | {"python": made["python"]},
        **{field: [row for row in found if isinstance(row, kind)] for field, kind in kinds.items()},
    )  # fmt: skip
    files.write_atomically(path.with_suffix(".schema.json"), lambda p: p.write_text(bench.schema()))
    return files.write_atomically(path, lambda p: p.write_text(record.model_dump_json(indent=1) + "\n"))


if __name__ == "__main__":
    try:
        main()
    except DataFreeError as error:
        sys.exit(f"bench: {error}")
