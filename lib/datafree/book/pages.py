"""The ledger, the equations, the run times and the runs at the papers' scale: what stands in the generated pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..evidence import claims, ledger
from ..evidence.record import read_all
from . import equations, paper_scale
from .equations import Cell, Equation
from .markdown import page


def _title(paper: str) -> str:
    return claims.papers().get(paper, {}).get("title", paper)


def _by_seed(places: list[str]) -> dict[str, dict[str, str]]:
    """'NOTEBOOK, PROFILE, seed' -> seed -> the place of its record."""
    groups: dict[str, dict[str, str]] = {}
    for place in places:
        _, profile, notebook, name = place.split("/")
        seed = name.removeprefix("seed").removesuffix(".json")
        groups.setdefault(f"{notebook}, {profile}, seed", {})[seed] = place
    return groups


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a row; those that differ only in the seed once, with the other seeds."""
    groups: dict[str, list[str]] = {}
    for line in text.split("; datafree ") if text else []:
        line = "datafree " + line.removeprefix("datafree ")
        seed = re.search(r" --seed (\d+)", line)
        groups.setdefault(re.sub(r" --seed \d+", " --seed SEED", line, count=1), []).append(seed[1] if seed else "0")
    return [(line.replace(" --seed SEED", f" --seed {first}", 1), others) for line, (first, *others) in groups.items()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger as the page has it: numbers as lines of text, records and commands by seed, the cell's link."""
    notebook, _, label = (row["cell"] or "").partition("#")
    return row | {
        "measured": ledger.described(row["measured"]),
        "printed": ledger.described(ledger.summary([row["printed"]])),
        "commands": commands(row["command"]),
        "records": _by_seed(row["records"]),
        "cell": Cell(notebook, label, "ref") if label else None,
    }


def ledger_page(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """The ledger as a page in MyST Markdown; `ours` come last, apart from the papers' claims."""
    counts = {paper: list(by_state.values()) for paper, by_state in ledger.counts(rows).items()}
    return page(
        "ledger",
        states=ledger.STATES,
        counts={_title(paper): numbers for paper, numbers in counts.items()},
        total=[sum(numbers) for numbers in zip(*counts.values())],
        papers={_title(paper): [_shown(row) for row in rows if row["paper"] == paper] for paper in counts},
        ours=[_shown(row) for row in ours],
    )


def equations_page(found: list[Equation]) -> str:
    """The index of equations as a page: equation, function, tests, notebook cells."""
    papers = {paper: [e for e in found if e.paper == paper] for paper in equations.paper_names().values()}
    return page("equations", papers={_title(paper): mine for paper, mine in papers.items() if mine})


def _machine(record: dict[str, Any]) -> str:
    machine = record["provenance"].get("machine") or {}
    words = [str(machine[key]) for key in ("system", "processor", "vector") if machine.get(key)]
    words += [f"{key} {machine[key]}" for key in ("cores", "threads") if machine.get(key)]
    return ", ".join(words) or "unknown"


def runtimes_page(found: list[dict[str, Any]]) -> str:
    """What each recorded run cost, as a page; the machines are numbered and described below the table."""
    found = sorted(found, key=lambda r: (r["notebook"], r["profile"], r["seed"]))
    machines = ledger.unique([_machine(record) for record in found])
    runs = [
        {"cpu_seconds": None}
        | record
        | {
            "place": ledger.place(record),
            "commit": ledger.commit(record),
            "machine": machines.index(_machine(record)) + 1,
        }
        for record in found
    ]
    return page("runtimes", runs=runs, machines=machines)


def write_pages(folder: Path, notebook_folder: Path | None = None) -> list[Path]:
    """Write ledger.md, equations.md, paper_scale.md and runtimes.md to `folder`, with the files they link to beside them.

    Args:
        folder: the sources of the book; gets ledger.csv, ledger.json and records/ as well.
        notebook_folder: the notebooks in the book; only targets found there are linked.
    """
    folder, found = Path(folder), read_all()
    rows, ours = ledger.build(found, notebook_folder), ledger.additions(found, notebook_folder)
    for record in found:
        text = record["path"].read_text(encoding="utf-8")
        ledger.write_text(folder / ledger.place(record), text)
    pages = {
        "ledger.md": ledger_page(rows, ours),
        "equations.md": equations_page(equations.equations(notebook_folder)),
        "paper_scale.md": paper_scale.page(found),
        "runtimes.md": runtimes_page(found),
    }
    return [
        *ledger.write(rows, ours, folder),
        *(ledger.write_text(folder / name, text) for name, text in pages.items()),
    ]
