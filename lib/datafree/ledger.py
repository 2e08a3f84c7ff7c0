"""The ledger: every claim of the papers beside what our records say about it.

How a claim gets its state:

1. Records of the profile 'smoke', and runs whose parameters were changed, never count.
2. The largest scale at which some run gave a verdict (`holds` true or false) counts alone: paper before reduced
   before book. Undecided runs (`holds` null) at that scale add to n and to the measured values, not to the verdict.
3. All true: reproduced. All false: not reproduced. Both, over seeds or notebooks: partly.
4. No verdict: 'not testable here' if book/papers/not_testable.yaml gives a reason, otherwise open.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

from . import facts, paperscale, paths, records
from .errors import DataFreeError
from .params import read_yaml, suggestion

STATES = ("reproduced", "partly", "not reproduced", "not testable here", "open")
COLUMNS = [
    "id",
    "paper",
    "where",
    "kind",
    "state",
    "scale",
    "n",
    "measured",
    "printed",
    "statement",
    "note",
    "reason",
    "remark",
    "command",
    "records",
    "commit",
    "cell",
]
"""The columns of the CSV and the keys of a row."""

BOOTSTRAP_FROM = 5
"""From this many points on, a mean is given with its 95 % interval; below, every point is shown."""


def interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean, and the ends of its 95 % bootstrap interval (BCa; None, None with fewer than five points)."""
    import numpy
    from scipy import stats

    points = numpy.asarray(values, dtype=float)
    if points.ndim != 1 or not len(points) or not numpy.isfinite(points).all():
        raise DataFreeError("an interval needs a list of one or more finite numbers.")
    mean = float(points.mean())
    if len(points) < BOOTSTRAP_FROM:
        return mean, None, None
    if numpy.ptp(points) <= 1e-12 * abs(mean):
        return mean, mean, mean
    for method in ("BCa", "percentile"):
        with numpy.errstate(all="ignore"):
            found = stats.bootstrap(
                (points,), numpy.mean, n_resamples=2000, method=method, rng=numpy.random.default_rng(0)
            )
        low, high = map(float, found.confidence_interval)
        if numpy.isfinite([low, high]).all():
            break
    return mean, low, high


def verdict(holds: list[bool | None]) -> str:
    """The state that verdicts at one scale add up to; 'open' where none is true or false."""
    given = {h for h in holds if h is not None}
    return {frozenset({True}): "reproduced", frozenset({False}): "not reproduced", frozenset(): "open"}.get(
        frozenset(given), "partly"
    )


def not_testable() -> dict[str, str]:
    """Claim id -> why it cannot be measured here and what it would take, from not_testable.yaml."""
    path = paths.PAPERS / "not_testable.yaml"
    content = (read_yaml(path) or {}) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(v, str) and v.strip() for v in content.values()):
        raise DataFreeError(f"'{path}' must map claim ids to a reason, one or two sentences each.")
    for claim_id in content:
        if claim_id not in facts.claims():
            raise DataFreeError(
                f"'{path}' names the claim '{claim_id}', which is not in claims.yaml{suggestion(claim_id, facts.claims())}."
            )
    return {claim_id: " ".join(reason.split()) for claim_id, reason in content.items()}


def _flat(measured: dict[str, Any], prefix: str = "") -> dict[str, list]:
    """{'a': {'b': 1}, 'c': [1, 2]} -> {'a.b': [1], 'c': [1, 2]}."""
    flat: dict[str, list] = {}
    for name, value in measured.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, list) else [value]
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def summary(measured: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> {mean, low, high, points} over all runs; {values} for what is not a number."""
    joined: dict[str, list] = {}
    for one in measured:
        for name, values in _flat(one).items():
            joined.setdefault(name, []).extend(values)
    found = {}
    for name, values in joined.items():
        if values and all(map(_is_number, values)):
            mean, low, high = interval(values)
            found[name] = {"mean": mean, "low": low, "high": high, "points": values}
        else:
            found[name] = {"values": values}
    return found


def _unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(item for item in items if item))


def _commit(record: dict[str, Any]) -> str:
    git = record["provenance"].get("git") or {}
    return str(git.get("commit", "unknown"))[:10] + (" with changes" if git.get("dirty", True) else "")


def _counting(found: list[tuple[dict, dict]]) -> tuple[str | None, list[tuple[dict, dict]]]:
    """The scale that decides, and the (record, entry) pairs at that scale, undecided ones too."""
    by_scale = {scale: [pair for pair in found if pair[1]["scale"] == scale] for scale in ("paper", "reduced", "book")}
    decided = [scale for scale, pairs in by_scale.items() if any(entry["holds"] is not None for _, entry in pairs)]
    measured = [scale for scale, pairs in by_scale.items() if pairs]
    scale = next(iter(decided + measured), None)
    return scale, by_scale.get(scale, [])


def _row(claim: facts.Claim, found: list[tuple[dict, dict]], reason: str, cell: str | None) -> dict[str, Any]:
    scale, chosen = _counting(found)
    state = verdict([entry["holds"] for _, entry in chosen])
    values = summary([entry["measured"] for _, entry in chosen])
    points = [len(v["points"]) for v in values.values() if "points" in v]
    printed: dict[str, Any] = {}
    for _, entry in chosen:
        printed |= entry["printed"]
    return {
        "id": claim.id,
        "paper": claim.paper,
        "where": claim.where,
        "kind": claim.kind,
        "state": "not testable here" if state == "open" and reason else state,
        "scale": scale,
        "n": max([len(chosen), *points]),
        "measured": values,
        "printed": printed,
        "statement": claim.statement,
        "note": " ".join(_unique([entry["note"] for _, entry in chosen])),
        "reason": reason if state == "open" else "",
        "remark": claim.note,
        "command": "; ".join(_unique([record["command"] for record, _ in chosen])),
        "records": _unique([_place(record) for record, _ in chosen]),
        "commit": ", ".join(_unique([_commit(record) for record, _ in chosen])),
        "cell": cell,
    }


def _place(record: dict[str, Any]) -> str:
    """Where a record lies in the book: records/PROFILE/NOTEBOOK/seedK.json."""
    return f"records/{record['profile']}/{record['notebook']}/seed{record['seed']}.json"


def cells(folder: Path | None = None) -> dict[str, str]:
    """Claim id -> 'NOTEBOOK#claim-ID' for the targets `(claim-ID)=` in the notebooks."""
    found = {}
    for path in facts.notebooks(folder):
        for label in facts.targets(path):
            if label.startswith("claim-"):
                found.setdefault(label.removeprefix("claim-"), f"{path.stem}#{label}")
    return found


def unknown_claims(found: list[dict[str, Any]]) -> list[str]:
    """A sentence for each claim id in the records that claims.yaml does not have."""
    known = facts.claims()
    return [
        f"record '{record['path']}' has the claim '{entry['id']}', which is not in claims.yaml{suggestion(entry['id'], known)}."
        for record in found
        for entry in record["claims"]
        if entry["id"] not in known
    ]


def problems() -> list[str]:
    """Everything that keeps the ledger from being drawn: unreadable records and unknown claim ids, a sentence each."""
    found, said = records.scan()
    return said + unknown_claims(found)


def build(found: list[dict[str, Any]] | None = None, notebook_folder: Path | None = None) -> list[dict[str, Any]]:
    """One row for each claim of claims.yaml, in its order.

    Args:
        found: records as `records.read_all` gives them (the default).
        notebook_folder: where to look for the targets of claims; default: notebooks/.
    """
    found = records.read_all() if found is None else found
    said = unknown_claims(found)
    if said:
        raise DataFreeError(" ".join(said))
    tested: dict[str, list[tuple[dict, dict]]] = {}
    for record in found:
        for entry in record["claims"]:
            if record["profile"] != "smoke" and entry["scale"] != "smoke" and not record["overrides"]:
                tested.setdefault(entry["id"], []).append((record, entry))
    reasons, where = not_testable(), cells(notebook_folder)
    return [_row(c, tested.get(c.id, []), reasons.get(c.id, ""), where.get(c.id)) for c in facts.claims().values()]


def counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Paper -> state -> number of claims."""
    table = {paper: dict.fromkeys(STATES, 0) for paper in _unique([row["paper"] for row in rows])}
    for row in rows:
        table[row["paper"]][row["state"]] += 1
    return table


def as_json(rows: list[dict[str, Any]]) -> str:
    """{"claims": [...]}, strict JSON."""
    return json.dumps({"claims": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(rows: list[dict[str, Any]]) -> str:
    """One line a claim; measured and printed values as text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {"measured": "; ".join(described(row["measured"])), "records": " ".join(row["records"])}
        flat["printed"] = "; ".join(described(summary([row["printed"]])))
        writer.writerow(row | flat)
    return out.getvalue()


def _number(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else str(value)


def described(values: dict[str, dict[str, Any]]) -> list[str]:
    """'name 89.1 [88.9, 89.3] (n 5)', or every point where there are fewer than five."""
    lines = []
    for name, value in values.items():
        points = value.get("points") or value.get("values") or []
        if value.get("low") is not None:
            text = f"{_number(value['mean'])} [{_number(value['low'])}, {_number(value['high'])}] (n {len(points)})"
        elif "mean" in value and len(points) > 1:
            text = f"{_number(value['mean'])} ({', '.join(map(_number, points))})"
        else:
            text = ", ".join(_unique([_number(p) for p in points]))
        lines.append(f"{name} {text}".strip())
    return lines


def _write(path: Path, text: str) -> Path:
    return paths.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write(rows: list[dict[str, Any]], folder: Path | None = None) -> list[Path]:
    """Write ledger.json and ledger.csv to `folder` (default: _build)."""
    folder = folder or paths.BUILD
    return [_write(folder / "ledger.json", as_json(rows)), _write(folder / "ledger.csv", as_csv(rows))]


# Pages of the book --------------------------------------------------------------------------------------------------

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


_MARKUP = re.compile(r"[\\`*_{}\[\]<>$|#~&@%^]|\.(?=\w)|:(?=/)")
"""Signs that Markdown would read as markup, and those that would make a link of 'net.th' or 'x://y'."""


def escaped(text: Any) -> str:
    """`text` on one line, to be shown as it is."""
    return _MARKUP.sub(lambda match: "\\" + match[0], " ".join(str(text).split()))


def _title(paper: str) -> str:
    return escaped(facts.papers().get(paper, {}).get("title", paper))


def _counts_table(rows: list[dict[str, Any]]) -> str:
    table = counts(rows)
    table["All papers"] = {state: sum(c[state] for c in table.values()) for state in STATES}
    lines = ["| Paper | " + " | ".join(STATES) + " | all |", "|---" + "|---:" * (len(STATES) + 1) + "|"]
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
    for title, values in (("Measured", row["measured"]), ("Paper", summary([row["printed"]]))):
        if values:
            lines += [f"**{title}**", "", *(f"- {escaped(line)}" for line in described(values)), ""]
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


def ledger_page(rows: list[dict[str, Any]]) -> str:
    """The ledger as a page in MyST Markdown."""
    parts = ["(ledger)=\n# Ledger\n", RULES, _counts_table(rows) + "\n"]
    parts.append("The whole ledger: {download}`as CSV <ledger.csv>`, {download}`as JSON <ledger.json>`.\n")
    for paper in counts(rows):
        mine = [row for row in rows if row["paper"] == paper]
        parts.append(f"## {_title(paper)}\n")
        parts += [_card(row) for row in mine if row["state"] != "open"]
        unknown = [row for row in mine if row["state"] == "open"]
        if unknown:
            parts.append(_open_list(unknown))
    return "\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _cell_link(cell: facts.Cell) -> str:
    if cell.kind == "ref":
        return f"{{ref}}`{cell.notebook} <{cell.label}>`"
    return f"{cell.notebook} {{eq}}`{cell.label}`" if cell.kind == "eq" else cell.notebook


def _equation(equation: facts.Equation) -> str:
    lines = [
        f"- **{escaped(equation.place)}** {escaped(equation.what.replace('`', ''))}",
        f"  - function: {_code(equation.function)}",
        "  - tests: " + (", ".join(map(_code, equation.tests)) or "none yet"),
        "  - notebook: " + (", ".join(map(_cell_link, equation.cells)) or "none yet"),
    ]
    return "\n".join(lines)


def equations_page(found: list[facts.Equation]) -> str:
    """The index of equations as a page: equation, function, tests, notebook cells."""
    parts = ["(equation-index)=\n# Equations\n", "Where each equation is computed, tested and used.\n"]
    for paper in facts.PAPER_NAMES.values():
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
    machines = _unique([_machine(record) for record in found])
    rows = [
        [
            f"{{download}}`{record['notebook']}, {record['profile']}, seed {record['seed']} <{_place(record)}>`",
            f"{record['seconds']:.0f}",
            f"{record['peak_memory_mb']:.0f}",
            str(machines.index(_machine(record)) + 1),
            escaped(record["started"][:10]),
            escaped(_commit(record)),
        ]
        for record in found
    ]
    table = _table(["Run (its record)", "Seconds", "Peak MiB", "Machine", "Date", "Commit"], rows)
    names = "\n".join(f"- Machine {number}: {name}" for number, name in enumerate(machines, 1))
    body = f"{table}\n{names}\n" if rows else "No run is recorded yet.\n"
    return "(runtimes)=\n# Run times\n\nWhat each recorded run took, from its first cell to its last.\n\n" + body


def write_pages(folder: Path, notebook_folder: Path | None = None) -> list[Path]:
    """Write ledger.md, equations.md, paper_scale.md and runtimes.md to `folder`, with the files they link to beside them.

    Args:
        folder: the sources of the book; gets ledger.csv, ledger.json and records/ as well.
        notebook_folder: the notebooks in the book; only targets found there are linked.
    """
    folder, found = Path(folder), records.read_all()
    rows = build(found, notebook_folder)
    for record in found:
        text = record["path"].read_text(encoding="utf-8")
        _write(folder / _place(record), text)
    pages = {
        "ledger.md": ledger_page(rows),
        "equations.md": equations_page(facts.equations(notebook_folder)),
        "paper_scale.md": paperscale.page(found),
        "runtimes.md": runtimes_page(found),
    }
    return [*write(rows, folder), *(_write(folder / name, text) for name, text in pages.items())]
