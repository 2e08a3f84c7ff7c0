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
from pathlib import Path
from typing import Any

from .. import files
from ..config import suggestion
from ..errors import DataFreeError
from . import claims
from .notebook_text import notebooks, targets
from .record import read_all, scan

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
    path = files.PAPERS / "not_testable.yaml"
    content = (files.read_yaml(path) or {}) if path.is_file() else {}
    if not isinstance(content, dict) or not all(isinstance(v, str) and v.strip() for v in content.values()):
        raise DataFreeError(f"'{path}' must map claim ids to a reason, one or two sentences each.")
    for claim_id in content:
        if claim_id not in claims.claims():
            raise DataFreeError(
                f"'{path}' names the claim '{claim_id}', which is not in claims.yaml{suggestion(claim_id, claims.claims())}."
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


def unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(item for item in items if item))


def commit(record: dict[str, Any]) -> str:
    git = record["provenance"].get("git") or {}
    return str(git.get("commit", "unknown"))[:10] + (" with changes" if git.get("dirty", True) else "")


def _counting(found: list[tuple[dict, dict]]) -> tuple[str | None, list[tuple[dict, dict]]]:
    """The scale that decides, and the (record, entry) pairs at that scale, undecided ones too."""
    by_scale = {scale: [pair for pair in found if pair[1]["scale"] == scale] for scale in ("paper", "reduced", "book")}
    decided = [scale for scale, pairs in by_scale.items() if any(entry["holds"] is not None for _, entry in pairs)]
    measured = [scale for scale, pairs in by_scale.items() if pairs]
    scale = next(iter(decided + measured), None)
    return scale, by_scale.get(scale, [])


def _row(claim: claims.Claim, found: list[tuple[dict, dict]], reason: str, cell: str | None) -> dict[str, Any]:
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
        "note": " ".join(unique([entry["note"] for _, entry in chosen])),
        "reason": reason if state == "open" else "",
        "remark": claim.note,
        "command": "; ".join(unique([record["command"] for record, _ in chosen])),
        "records": unique([place(record) for record, _ in chosen]),
        "commit": ", ".join(unique([commit(record) for record, _ in chosen])),
        "cell": cell,
    }


def place(record: dict[str, Any]) -> str:
    """Where a record lies in the book: records/PROFILE/NOTEBOOK/seedK.json."""
    return f"records/{record['profile']}/{record['notebook']}/seed{record['seed']}.json"


def cells(folder: Path | None = None) -> dict[str, str]:
    """Claim id -> 'NOTEBOOK#claim-ID' for the targets `(claim-ID)=` in the notebooks."""
    found = {}
    for path in notebooks(folder):
        for label in targets(path):
            if label.startswith("claim-"):
                found.setdefault(label.removeprefix("claim-"), f"{path.stem}#{label}")
    return found


def unknown_claims(found: list[dict[str, Any]]) -> list[str]:
    """A sentence for each claim id in the records that claims.yaml does not have."""
    known = claims.claims()
    return [
        f"record '{record['path']}' has the claim '{entry['id']}', which is not in claims.yaml{suggestion(entry['id'], known)}."
        for record in found
        for entry in record["claims"]
        if entry["id"] not in known
    ]


def problems() -> list[str]:
    """Everything that keeps the ledger from being drawn: unreadable records and unknown claim ids, a sentence each."""
    found, said = scan()
    return said + unknown_claims(found)


def build(found: list[dict[str, Any]] | None = None, notebook_folder: Path | None = None) -> list[dict[str, Any]]:
    """One row for each claim of claims.yaml, in its order.

    Args:
        found: records as `record.read_all` gives them (the default).
        notebook_folder: where to look for the targets of claims; default: notebooks/.
    """
    found = read_all() if found is None else found
    said = unknown_claims(found)
    if said:
        raise DataFreeError(" ".join(said))
    tested = _by_id(found, "claims")
    reasons, where = not_testable(), cells(notebook_folder)
    return [_row(c, tested.get(c.id, []), reasons.get(c.id, ""), where.get(c.id)) for c in claims.claims().values()]


def _by_id(found: list[dict[str, Any]], kind: str) -> dict[str, list[tuple[dict, dict]]]:
    """Id -> (record, entry) of every run that counts; kind: 'claims' or 'additions'."""
    tested: dict[str, list[tuple[dict, dict]]] = {}
    for record in found:
        for entry in record[kind]:
            if record["profile"] != "smoke" and entry["scale"] != "smoke" and not record["overrides"]:
                tested.setdefault(entry["id"], []).append((record, entry))
    return tested


def additions(found: list[dict[str, Any]] | None = None, notebook_folder: Path | None = None) -> list[dict[str, Any]]:
    """One row for each statement of ours that a record holds, like those of `build`; paper: 'ours'."""
    found = read_all() if found is None else found
    where = cells(notebook_folder)
    rows = []
    for name, pairs in sorted(_by_id(found, "additions").items()):
        record, entry = pairs[-1]
        own = claims.Claim(
            id=name, paper="ours", statement=entry["statement"], where=record["notebook"], kind="ours", how_to_check=""
        )
        rows.append(_row(own, [(r, e | {"printed": {}}) for r, e in pairs], "", where.get(name)))
    return rows


def counts(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Paper -> state -> number of claims."""
    table = {paper: dict.fromkeys(STATES, 0) for paper in unique([row["paper"] for row in rows])}
    for row in rows:
        table[row["paper"]][row["state"]] += 1
    return table


def as_json(rows: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """{"claims": [...], "ours": [...]}, strict JSON."""
    return json.dumps({"claims": rows, "ours": ours}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


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
            text = ", ".join(unique([_number(p) for p in points]))
        lines.append(f"{name} {text}".strip())
    return lines


def write_text(path: Path, text: str) -> Path:
    return files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write(rows: list[dict[str, Any]], ours: list[dict[str, Any]], folder: Path | None = None) -> list[Path]:
    """Write ledger.json and ledger.csv to `folder` (default: _build); our own statements come last."""
    folder = folder or files.BUILD
    return [
        write_text(folder / "ledger.json", as_json(rows, ours)),
        write_text(folder / "ledger.csv", as_csv(rows + ours)),
    ]
