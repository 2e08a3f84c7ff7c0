"""What stands in the generated pages: ledger, comparison with this machine's runs, equations, run times, speed, papers' scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .. import files
from ..evidence import claims, compare, ledger
from ..evidence.record import read, read_all
from ..evidence.verdict import SCALES
from . import bench, effects, equations, faults, front, handouts, paper_scale, plan, repeats, student
from .equations import Cell, Equation
from .markdown import page


def _title(paper: str) -> str:
    return claims.papers().get(paper, {}).get("title", paper)


LABELS = {
    "knowledge_within": "Knowledge Within",
    "layerwise": "Layer-Wise",
    "udfc": "UDFC",
    "frandi": "FRanDI",
}
"""Papers as narrow columns name them."""


def _short(paper: str) -> str:
    return LABELS.get(paper, paper)


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


def counted(row: dict[str, Any]) -> str:
    """What n counts in a row."""
    runs = len(row["records"])
    if not runs:
        return ""
    if row["identity"]:
        return f"{runs} {'run' if runs == 1 else 'runs'} in which the algebra was checked."
    if row["n"] < runs:
        return f"{row['n']} of {runs} runs: the others repeat their numbers, because the seed changes nothing in some part; there the test images decide."
    return f"{runs} independent {'run' if runs == 1 else 'runs'} of the chapter, a seed each."


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the ledger as the page has it: effects as text and pictures, records and commands by seed, the cell's link."""
    notebook, _, label = (row["cell"] or "").partition("#")
    return row | {
        "short": _short(row["paper"]),
        "stands_in": ledger.on_a_stand_in(row),
        "effect_text": effects.described(row["effect"]),
        "parts": len(row["scales"][row["scale"]]["parts"]) if row["scale"] else 0,
        "scales_html": effects.template("effects.html.j2").module.scales(row).strip(),
        "counted": counted(row),
        "commands": commands(row["command"]),
        "records": _by_seed([place for one in row["scales"].values() for place in one["records"]]),
        "cell": Cell(notebook, label, "ref") if label else None,
    }


def _counts(rows: list[dict[str, Any]]) -> str:
    """How many claims of each paper have each state; those measured on a stand-in apart."""
    named = lambda found: {_short(paper): by_state for paper, by_state in ledger.counts(found).items()}  # noqa: E731
    groups = {
        "on the paper's own kind of network and data, or not measured": [
            r for r in rows if not ledger.on_a_stand_in(r)
        ],
        "on a stand-in": [r for r in rows if ledger.on_a_stand_in(r)],
    }
    tables = {title: named(found) for title, found in groups.items() if found}
    return effects.template("counts.html.j2").render(states=ledger.STATES, groups=tables, bars=named(rows))


def ledger_page(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """The ledger as a page in MyST Markdown; `ours` come last, apart from the papers' claims."""
    shown, own = [_shown(row) for row in rows], [_shown(row) for row in ours]
    table = effects.template("claims_table.html.j2")
    return page(
        "ledger",
        counts_html=_counts(rows),
        table_html=table.render(rows=shown + own, states=ledger.STATES, scales=SCALES),
        papers={_title(paper): [r for r in shown if r["paper"] == paper] for paper in ledger.counts(rows)},
        ours=own,
    )


def _compared(fresh: dict[str, Any], title: str) -> dict[str, Any]:
    committed = compare.committed(fresh["notebook"], fresh["profile"], fresh["seed"])
    found = compare.compare(committed, fresh)
    return {
        "title": title,
        "same": found.same,
        "moved": len(found.moved),
        "flips": len(found.flips),
        "beyond": sum(flip.beyond_noise for flip in found.flips),
        "lines": [line.strip() for line in compare.lines(found)[1:]],
    }


def machine_page() -> str:
    """Each fresh record of the profile book against the committed one of the same number, as a page."""
    compared, alone = [], []
    for path in sorted((files.BUILD / "records" / "book").glob("*/seed*.json")):
        fresh = read(path)
        title = f"{fresh['notebook']}, seed {fresh['seed']}"
        if (files.RECORDS / "book" / fresh["notebook"] / path.name).is_file():
            compared.append(_compared(fresh, title))
        else:
            alone.append(title)
    return page("on_your_machine", compared=compared, alone=alone)


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
    return page("runtimes", runs=runs, machines=machines, audits=audit_costs(found), seeds=plan.AUDITED)


def audit_costs(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an audit of each profile costs a seed, by the mean of its recorded runs: CPU hours, the longest run, what is open."""
    chapters = sorted({path.stem for path in (files.ROOT / "notebooks").glob("*.ipynb")})
    costs = []
    for profile in ("book", "reduced", "paper"):
        seconds: dict[str, list[float]] = {}
        for record in found:
            if record["profile"] == profile:
                spent = record.get("cpu_seconds")
                seconds.setdefault(record["notebook"], []).append(record["seconds"] if spent is None else spent)
        means = {name: sum(values) / len(values) for name, values in seconds.items()}
        hours, longest = sum(means.values()) / 3600, max(means.values(), default=0) / 3600
        open_ = [name for name in chapters if name not in means]
        costs.append({"profile": profile, "chapters": len(means), "hours": hours, "longest": longest, "open": open_})
    return costs


def write_pages(folder: Path, notebook_folder: Path | None = None) -> list[Path]:
    """Write the pages drawn from records to `folder`, with the files they link to beside them.

    Args:
        folder: the sources of the book; gets ledger.csv, ledger.json, its schema and records/ as well.
        notebook_folder: the notebooks in the book; only targets found there are linked.
    """
    folder, found = Path(folder), read_all()
    rows, ours = ledger.build(found, notebook_folder), ledger.ours(found, notebook_folder)
    for record in found:
        text = record["path"].read_text(encoding="utf-8")
        ledger.write_text(folder / ledger.place(record), text)
    pages = {
        "instructor.md": student.page(),
        "index.md": front.page(rows, found, LABELS),
        **{f"handout_{paper}.md": handouts.page(paper, rows, LABELS[paper], found) for paper in handouts.handouts()},
        "ledger.md": ledger_page(rows, ours),
        "on_your_machine.md": machine_page(),
        "paper_scale.md": paper_scale.page(found),
        "runtimes.md": runtimes_page(found),
        "bench.md": bench.write_page(folder),
        "faults.md": faults.page(),
        "reproducible.md": repeats.page(),
    }
    return [
        *ledger.write(rows, ours, folder),
        *(ledger.write_text(folder / name, text) for name, text in pages.items()),
    ]


def write_equations(path: Path, notebook_folder: Path | None = None) -> Path:
    """Write the index of equations, apart from the other pages: only it depends on the tests."""
    return ledger.write_text(path, equations_page(equations.equations(notebook_folder)))
