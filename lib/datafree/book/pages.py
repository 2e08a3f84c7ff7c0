"""The ledger, the equations and the run times as pages of the book, in MyST Markdown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..evidence import claims, ledger
from ..evidence.record import read_all
from . import equations, paper_scale

BADGES = {
    "reproduced": "{bdg-success}",
    "partly": "{bdg-warning}",
    "not reproduced": "{bdg-danger}",
    "not testable here": "{bdg-info}",
    "open": "{bdg-light}",
}

RULES = """\
Each claim that the four papers make and that can be checked has a state:

- {bdg-success}`reproduced`: it held in every run that counts;
- {bdg-warning}`partly`: it held in some of them;
- {bdg-danger}`not reproduced`: it held in none;
- {bdg-info}`not testable here`: the data or the computer it needs are not here; what it would take is said;
- {bdg-light}`open`: nobody has measured it yet, or a measurement could not tell.

The scale says how near a measurement is to the paper's own. *book* is the embedded data and two laptop cores, *reduced* lies
between, *paper* is the paper's network, data and steps. Where there are several, the largest with a verdict counts alone.
Quick runs (*smoke*) and runs with changed parameters never count. n is the number of repetitions.
From five points on, a mean stands with its 95 % bootstrap interval in brackets; below five, every point is shown.
"""


OURS = (
    "Statements about methods that the book adds. They get their states by the same rules, and are not counted above.\n"
)


_MARKUP = re.compile(r"[\\`*_{}\[\]<>$|#~&@%^]|\.(?=\w)|:(?=/)")
"""Signs that Markdown would read as markup, and those that would make a link of 'net.th' or 'x://y'."""


def escaped(text: Any) -> str:
    """`text` on one line, to be shown as it is."""
    return _MARKUP.sub(lambda match: "\\" + match[0], " ".join(str(text).split()))


def _title(paper: str) -> str:
    return escaped(claims.papers().get(paper, {}).get("title", paper))


def _counts_table(rows: list[dict[str, Any]]) -> str:
    table = ledger.counts(rows)
    table["All papers"] = {state: sum(c[state] for c in table.values()) for state in ledger.STATES}
    lines = ["| Paper | " + " | ".join(ledger.STATES) + " | all |", "|---" + "|---:" * (len(ledger.STATES) + 1) + "|"]
    for paper, by_state in table.items():
        title = "**All**" if paper == "All papers" else _title(paper)
        numbers = [*by_state.values(), sum(by_state.values())]
        lines.append(f"| {title} | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def _code(text: str) -> str:
    """Inline code whatever signs `text` holds."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _cell_of(row: dict[str, Any]) -> str:
    notebook, _, label = row["cell"].partition("#")
    return f"{{ref}}`{notebook} <{label}>`"


def _records_of(row: dict[str, Any]) -> str:
    """'NOTEBOOK, PROFILE, seed 0 1 2', each seed a link."""
    groups: dict[str, list[str]] = {}
    for place in row["records"]:
        _, profile, notebook, name = place.split("/")
        seed = name.removeprefix("seed").removesuffix(".json")
        groups.setdefault(f"{notebook}, {profile}, seed", []).append(f"{{download}}`{seed} <{place}>`")
    return "; ".join(f"{escaped(title)} {' '.join(links)}" for title, links in groups.items())


def _commands(text: str) -> str:
    """The commands as code; those that differ only in the seed once, with the other seeds in words."""
    groups: dict[str, list[str]] = {}
    for line in text.split("; datafree "):
        line = "datafree " + line.removeprefix("datafree ")
        seed = re.search(r" --seed (\d+)", line)
        groups.setdefault(re.sub(r" --seed \d+", " --seed SEED", line, count=1), []).append(seed[1] if seed else "0")
    said = []
    for line, seeds in groups.items():
        others = f" and with seeds {', '.join(seeds[1:])}" if len(seeds) > 1 else ""
        said.append(_code(line.replace(" --seed SEED", f" --seed {seeds[0]}", 1)) + others)
    return "; ".join(said)


def _card(row: dict[str, Any]) -> str:
    lines = [f"(ledger-{row['id']})=", f"::::{{card}} {row['id']} {BADGES[row['state']]}`{row['state']}`", ""]
    lines += [f"{escaped(row['statement'])} *({escaped(row['where'])})*", ""]
    if row["scale"]:
        lines += [f"**Scale** {row['scale']} · **n** {row['n']} · **commit** {escaped(row['commit'])}", ""]
    for title, values in (("Measured", row["measured"]), ("Paper", ledger.summary([row["printed"]]))):
        if values:
            lines += [f"**{title}**", "", *(f"- {escaped(line)}" for line in ledger.described(values)), ""]
    for title, key in (("Why not", "reason"), ("Note", "note"), ("Remark of the transcriber", "remark")):
        if row[key]:
            lines += [f"**{title}** {escaped(row[key])}", ""]
    if row["command"]:
        lines += [f"**Run it again** {_commands(row['command'])}", ""]
    if row["records"]:
        lines += [f"**Records** {_records_of(row)}", ""]
    if row["cell"]:
        lines += [f"**Cell** {_cell_of(row)}", ""]
    return "\n".join([*lines, "::::", ""])


def _open_list(rows: list[dict[str, Any]]) -> str:
    lines = [f"::::{{dropdown}} Open ({len(rows)})", ""]
    for row in rows:
        link = f" (cell: {_cell_of(row)})" if row["cell"] else ""
        lines.append(f"- {row['id']} *({escaped(row['where'])})*: {escaped(row['statement'])}{link}")
    return "\n".join([*lines, "", "::::", ""])


def ledger_page(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """The ledger as a page in MyST Markdown; `ours` come last, apart from the papers' claims."""
    parts = ["(ledger)=\n# Ledger\n", RULES, _counts_table(rows) + "\n"]
    parts.append("The whole ledger: {download}`as CSV <ledger.csv>`, {download}`as JSON <ledger.json>`.\n")
    for paper in ledger.counts(rows):
        mine = [row for row in rows if row["paper"] == paper]
        parts.append(f"## {_title(paper)}\n")
        parts += [_card(row) for row in mine if row["state"] != "open"]
        unknown = [row for row in mine if row["state"] == "open"]
        if unknown:
            parts.append(_open_list(unknown))
    if ours:
        parts += ["(ledger-ours)=\n## Ours: what no paper claims\n", OURS, *map(_card, ours)]
    return "\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _cell_link(cell: equations.Cell) -> str:
    if cell.kind == "ref":
        return f"{{ref}}`{cell.notebook} <{cell.label}>`"
    return f"{cell.notebook} {{eq}}`{cell.label}`" if cell.kind == "eq" else cell.notebook


def _equation(equation: equations.Equation) -> str:
    lines = [
        f"- **{escaped(equation.place)}** {escaped(equation.what.replace('`', ''))}",
        f"  - function: {_code(equation.function)}",
        "  - tests: " + (", ".join(map(_code, equation.tests)) or "none yet"),
        "  - notebook: " + (", ".join(map(_cell_link, equation.cells)) or "none yet"),
    ]
    return "\n".join(lines)


def equations_page(found: list[equations.Equation]) -> str:
    """The index of equations as a page: equation, function, tests, notebook cells."""
    parts = ["(equation-index)=\n# Equations\n", "Where each equation is computed, tested and used.\n"]
    for paper in equations.PAPER_NAMES.values():
        mine = [e for e in found if e.paper == paper]
        if mine:
            parts += [f"## {_title(paper)}\n", "\n".join(map(_equation, mine)) + "\n"]
    return "\n".join(parts if len(parts) > 2 else [*parts, "No function names an equation yet.\n"])


def _machine(record: dict[str, Any]) -> str:
    machine = record["provenance"].get("machine") or {}
    words = [str(machine[key]) for key in ("system", "processor", "vector") if machine.get(key)]
    words += [f"{key} {machine[key]}" for key in ("cores", "threads") if machine.get(key)]
    return escaped(", ".join(words) or "unknown")


def runtimes_page(found: list[dict[str, Any]]) -> str:
    """What each recorded run cost, as a page; the machines are numbered and described below the table."""
    found = sorted(found, key=lambda r: (r["notebook"], r["profile"], r["seed"]))
    machines = ledger.unique([_machine(record) for record in found])
    rows = [
        [
            f"{{download}}`{record['notebook']}, {record['profile']}, seed {record['seed']} <{ledger.place(record)}>`",
            f"{record['seconds']:.0f}",
            "–" if record.get("cpu_seconds") is None else f"{record['cpu_seconds']:.0f}",
            f"{record['peak_memory_mb']:.0f}",
            str(machines.index(_machine(record)) + 1),
            escaped(record["started"][:10]),
            escaped(ledger.commit(record)),
        ]
        for record in found
    ]
    table = _table(["Run (its record)", "Seconds", "CPU seconds", "Peak MiB", "Machine", "Date", "Commit"], rows)
    names = "\n".join(f"- Machine {number}: {name}" for number, name in enumerate(machines, 1))
    body = f"{table}\n{names}\n" if rows else "No run is recorded yet.\n"
    head = (
        "(runtimes)=\n# Run times\n\nWhat each recorded run took, from its first cell to its last. CPU seconds are those of "
        "all cores together. Many more seconds than these mean that the machine had other work at the time.\n\n"
    )
    return head + body


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
