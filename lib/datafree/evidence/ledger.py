"""The ledger: every claim of the papers, and the verdict that all records give by the criteria.

Records of the profile 'smoke', and runs whose parameters were changed, never count. At each scale the runs of a claim's
chapter are judged together; the headline is the scale nearest the paper that has three seeds, and all stand beside it.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..config import suggestion
from ..errors import DataFreeError
from . import claims, record
from .criteria import Criterion, Missing, Run, load
from .fingerprint import is_stale
from .notebook_text import notebooks, targets
from .verdict import SCALES, Effect, Interval, Verdict, disagreement, headline, judge

STATES = ("reproduced", "partly", "contradicted", "undecided", "identity", "not testable here", "open")
COLUMNS = [
    "id", "paper", "where", "kind", "state", "scale", "n", "mean", "low", "high", "unit", "tolerance", "why", "stand_in",
    "disagreement", "stale", "statement", "reason", "note", "command", "records", "commit", "cell",
]  # fmt: skip
"""The columns of the CSV."""

SCHEMA = "ledger.schema.json"
"""What ledger.json holds, as a JSON Schema; in book/papers."""


def scale_of(profile: str) -> str | None:
    """The scale a profile measures at: its own name, or 'reduced' for settings of other data and networks; smoke has none."""
    return None if profile == "smoke" else profile if profile in SCALES else "reduced"


def not_testable() -> dict[str, str]:
    """Claim id -> why it cannot be measured here and what it would take, from not_testable.yaml."""
    return _texts("not_testable.yaml", "a reason", set(claims.claims()))


def notes() -> dict[str, str]:
    """Claim id -> what its reader still needs to know (departures, budgets, baselines), from notes.yaml."""
    own = {name for name, criterion in load().items() if criterion.statement}
    return _texts("notes.yaml", "a note", set(claims.claims()) | own)


def _texts(name: str, what: str, known: set[str]) -> dict[str, str]:
    """A file that says something about some claims, each text on one line."""
    path = files.PAPERS / name
    content = (files.read_yaml(path) or {}) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(v, str) and v.strip() for v in content.values()):
        raise DataFreeError(f"'{path}' must map claim ids to {what}, one or two sentences each.")
    for claim_id in content:
        if claim_id not in known:
            close = suggestion(claim_id, sorted(known))
            raise DataFreeError(f"'{path}' names the claim '{claim_id}', which is not in claims.yaml{close}.")
    return {claim_id: " ".join(text.split()) for claim_id, text in content.items()}


def unique(items: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(item for item in items if item))


def commit(entry: dict[str, Any]) -> str:
    """Ten digits of a record's commit, and whether its checkout had changes."""
    git = entry["provenance"].get("git") or {}
    return str(git.get("commit", "unknown"))[:10] + (" with changes" if git.get("dirty", True) else "")


def place(entry: dict[str, Any]) -> str:
    """Where a record lies in the book: records/PROFILE/NOTEBOOK/seedK.json."""
    return f"records/{entry['profile']}/{entry['notebook']}/seed{entry['seed']}.json"


class _Stale(dict):
    """Place of a record -> whether it is stale, asked once for each."""

    def of(self, entry: dict[str, Any]) -> bool:
        if place(entry) not in self:
            self[place(entry)] = is_stale(entry)
        return self[place(entry)]


# From records to verdicts -------------------------------------------------------------------------------------------


def measurements(criterion: Criterion, found: Sequence[dict]) -> tuple[dict[str, list[tuple[dict, dict]]], list[str]]:
    """Scale -> (record, part -> effect) of every run that counts for a claim; and what runs lack that do not."""
    by_scale: dict[str, list[tuple[dict, dict]]] = {}
    lacking = []
    for entry in found:
        scale = scale_of(entry["profile"])
        if entry["notebook"] != criterion.chapter or scale is None or entry["overrides"]:
            continue
        run = Run(entry)
        try:
            if criterion.counts(run):
                effects = criterion.effects(run)
                by_scale.setdefault(scale, []).append((entry, effects))
        except Missing as missing:
            lacking.append(f"{place(entry)}: {missing}")
    return by_scale, unique(lacking)


def verdicts(criterion: Criterion, by_scale: Mapping[str, list[tuple[dict, dict]]]) -> dict[str, Verdict]:
    """Scale -> verdict over its runs."""
    return {
        scale: judge(_alike([effects for _, effects in pairs]), scale, criterion.identity)
        for scale, pairs in by_scale.items()
    }


def _alike(runs: list[dict[str, Effect]]) -> list[dict[str, Effect]]:
    """The parts that all runs have: one run may have measured more networks than another."""
    common = set.intersection(*(set(run) for run in runs))
    if not common:
        raise DataFreeError("the runs of a claim have no part in common; mend its criterion.")
    return [{name: effect for name, effect in run.items() if name in common} for run in runs]


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _interval(found: Interval, unit: str) -> dict[str, Any]:
    return {"mean": _finite(found.mean), "low": _finite(found.low), "high": _finite(found.high), "unit": unit}


def _at_scale(verdict: Verdict, unit: str, pairs: list[tuple[dict, dict]]) -> dict[str, Any]:
    """One scale of a row."""
    return {
        "state": verdict.state,
        "n": verdict.n,
        "effect": _interval(verdict.weakest, unit),
        "parts": {name: {"state": state} | _interval(found, unit) for name, (state, found) in verdict.parts.items()},
        "records": unique([place(entry) for entry, _ in pairs]),
    }


def _row(
    claim: claims.Claim, criterion: Criterion | None, found: Sequence[dict], about: Mapping, stale: _Stale
) -> dict:
    """A row of the ledger. about: what stands in files beside the criteria: reason, note, cell."""
    by_scale, lacking = measurements(criterion, found) if criterion else ({}, [])
    judged = verdicts(criterion, by_scale) if criterion else {}
    chief = headline(judged)
    chosen = [entry for entry, _ in by_scale[chief.scale]] if chief else []
    unit = criterion.unit if criterion else ""
    return {
        "id": claim.id,
        "paper": claim.paper,
        "where": claim.where,
        "kind": claim.kind,
        "statement": claim.statement,
        "state": chief.state if chief else "not testable here" if about["reason"] else "open",
        "identity": bool(criterion and criterion.identity),
        "scale": chief.scale if chief else None,
        "n": chief.n if chief else 0,
        "effect": _interval(chief.weakest, unit) if chief else None,
        "scales": {scale: _at_scale(judged[scale], unit, by_scale[scale]) for scale in SCALES if scale in judged},
        "disagreement": disagreement(judged),
        "unit": unit,
        "tolerance": criterion.tolerance if criterion else None,
        "why": criterion.why if criterion else "",
        "stand_in": criterion.stand_in_at(chief.scale if chief else None) if criterion else None,
        "criterion": criterion.check.__doc__ or "" if criterion else "",
        "lacking": lacking if not chief else [],
        "stale": any(map(stale.of, chosen)),
        "reason": "" if chief else about["reason"],
        "note": about["note"],
        "remark": claim.note,
        "command": "; ".join(unique([entry["command"] for entry in chosen])),
        "records": unique([place(entry) for entry in chosen]),
        "commit": ", ".join(unique([commit(entry) for entry in chosen])),
        "cell": about["cell"],
    }


def cells(folder: Path | None = None) -> dict[str, str]:
    """Claim id -> 'NOTEBOOK#claim-ID' for the targets `(claim-ID)=` in the notebooks."""
    found: dict[str, str] = {}
    for path in notebooks(folder):
        for label in targets(path):
            if label.startswith("claim-"):
                found.setdefault(label.removeprefix("claim-"), f"{path.stem}#{label}")
    return found


def unknown_claims() -> list[str]:
    """A sentence for each criterion whose claim claims.yaml does not have."""
    known = claims.claims()
    return [
        f"the criterion of '{name}' is for a claim that is not in claims.yaml{suggestion(name, known)}."
        for name, criterion in load().items()
        if name not in known and not criterion.statement
    ]


def problems() -> list[str]:
    """Everything that keeps the ledger from being drawn, a sentence each."""
    _, said = record.scan()
    return said + unknown_claims()


def build(found: list[dict[str, Any]] | None = None, notebook_folder: Path | None = None) -> list[dict[str, Any]]:
    """One row for each claim of claims.yaml, in its order.

    Args:
        found: records as `record.read_all` gives them (the default).
        notebook_folder: where to look for the targets of claims; default: notebooks/.
    """
    return _rows(claims.claims().values(), found, notebook_folder)


def ours(found: list[dict[str, Any]] | None = None, notebook_folder: Path | None = None) -> list[dict[str, Any]]:
    """One row for each statement of our own that has a criterion, like those of `build`; paper: 'ours'."""
    own = [
        claims.Claim(id=name, paper="ours", statement=c.statement, where=c.chapter, kind="ours", how_to_check="")
        for name, c in sorted(load().items())
        if c.statement
    ]
    return _rows(own, found, notebook_folder)


def _rows(wanted: Iterable[claims.Claim], found: list[dict] | None, notebook_folder: Path | None) -> list[dict]:
    found = record.read_all() if found is None else found
    if said := unknown_claims():
        raise DataFreeError(" ".join(said))
    criteria, reasons, said, where, stale = load(), not_testable(), notes(), cells(notebook_folder), _Stale()
    about = lambda name: {"reason": reasons.get(name, ""), "note": said.get(name, ""), "cell": where.get(name)}  # noqa: E731
    return [_row(claim, criteria.get(claim.id), found, about(claim.id), stale) for claim in wanted]


def on_a_stand_in(row: dict[str, Any]) -> bool:
    """Whether a row was measured on something that stands for the paper's network or data."""
    return bool(row["scale"] and row["stand_in"])


def counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Paper -> state -> number of claims."""
    table = {paper: dict.fromkeys(STATES, 0) for paper in unique([row["paper"] for row in rows])}
    for row in rows:
        table[row["paper"]][row["state"]] += 1
    return table


def as_json(rows: list[dict[str, Any]], own: list[dict[str, Any]]) -> str:
    """{"claims": [...], "ours": [...]}, strict JSON."""
    return json.dumps({"claims": rows, "ours": own}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(rows: list[dict[str, Any]]) -> str:
    """One line a claim, with the effect of its headline."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | (row["effect"] or {}) | {"records": " ".join(row["records"])})
    return out.getvalue()


def write_text(path: Path, text: str) -> Path:
    return files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write(rows: list[dict[str, Any]], own: list[dict[str, Any]], folder: Path | None = None) -> list[Path]:
    """Write ledger.json with its schema, and ledger.csv, to `folder` (default: _build); our own statements come last."""
    folder = folder or files.BUILD
    schema = (files.PAPERS / SCHEMA).read_text(encoding="utf-8")
    return [
        write_text(folder / "ledger.json", as_json(rows, own)),
        write_text(folder / SCHEMA, schema),
        write_text(folder / "ledger.csv", as_csv(rows + own)),
    ]
