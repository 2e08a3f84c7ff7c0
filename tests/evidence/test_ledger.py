"""From records to states and numbers."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from conftest import RECORDED, leave_record, write_chapter
from hypothesis import given
from hypothesis import strategies as st

from datafree import files
from datafree.errors import DataFreeError
from datafree.evidence import claims as claims_module
from datafree.evidence import ledger

NAME = RECORDED

pytestmark = pytest.mark.usefixtures("places")


def row(claim_id, places):
    return {r["id"]: r for r in ledger.build(notebook_folder=places / "notebooks")}[claim_id]


# States


def test_without_records_everything_is_open_or_not_testable(places):
    rows = ledger.build(notebook_folder=places / "notebooks")
    assert [r["id"] for r in rows] == list(claims_module.claims()) and len(rows) == 196
    untestable = {r["id"] for r in rows if r["state"] == "not testable here"}
    assert untestable == set(ledger.not_testable()) and {"kw-c18", "ud-c01"} <= untestable
    assert all(r["state"] == "open" for r in rows if not r["reason"])
    assert all(r["n"] == 0 and r["scale"] is None for r in rows)
    assert "GPU" in row("kw-c18", places)["reason"]


@pytest.mark.parametrize(
    "holds, state",
    [
        ([True, True], "reproduced"),
        ([False, False], "not reproduced"),
        ([True, False], "partly"),
        ([True, None], "reproduced"),
        ([None, False], "not reproduced"),
        ([None, None], "open"),
        ([], "open"),
    ],
)
def test_verdicts(holds, state, places):
    assert ledger.verdict(holds) == state
    for seed, h in enumerate(holds):
        leave_record([{"id": "kw-c12", "holds": h}], seed=seed)
    assert row("kw-c12", places)["state"] == state
    assert row("kw-c12", places)["n"] == len(holds)


@given(st.lists(st.sampled_from([True, False, None])), st.randoms())
def test_the_order_of_verdicts_does_not_matter(holds, random):
    mixed = holds[:]
    random.shuffle(mixed)
    assert ledger.verdict(holds) == ledger.verdict(mixed) == ledger.verdict([*mixed, None])


def test_the_largest_scale_with_a_verdict_counts_alone(places):
    leave_record([{"id": "kw-c12", "holds": False}], seed=0)
    leave_record([{"id": "kw-c12", "holds": True, "scale": "reduced"}], seed=1)
    leave_record([{"id": "kw-c12", "holds": None}], profile="paper")
    found = row("kw-c12", places)
    assert (found["state"], found["scale"], found["n"]) == ("reproduced", "reduced", 1)
    leave_record([{"id": "kw-c12", "holds": False}], profile="paper", seed=1)
    found = row("kw-c12", places)
    assert (found["state"], found["scale"], found["n"]) == ("not reproduced", "paper", 2)


def test_smoke_runs_and_trials_never_count(places):
    leave_record([{"id": "kw-c12", "holds": True, "scale": "paper"}], profile="smoke")
    leave_record([{"id": "kw-c12", "holds": True}], overrides={"steps": 3})
    assert row("kw-c12", places)["state"] == "open" and row("kw-c12", places)["records"] == []


def test_a_measurement_goes_before_a_reason(places):
    leave_record([{"id": "kw-c18", "holds": None}])
    assert row("kw-c18", places)["state"] == "not testable here"
    leave_record([{"id": "kw-c18", "holds": True}])
    found = row("kw-c18", places)
    assert found["state"] == "reproduced" and found["reason"] == ""


def test_a_fresh_record_replaces_the_committed_one(places):
    leave_record([{"id": "kw-c12", "holds": True}])
    leave_record([{"id": "kw-c12", "holds": False}], fresh=True)
    assert row("kw-c12", places)["state"] == "not reproduced"


def test_a_row_says_where_it_comes_from(places):
    entry = {"id": "kw-c12", "holds": True, "note": "same note", "printed": {"start": 2}, "measured": {"end": 1.0}}
    for seed in range(2):
        leave_record([entry], seed=seed)
    write_chapter(places, "# T", "(claim-kw-c12)=\nHere.")
    found = row("kw-c12", places)
    assert found["records"] == [f"records/book/{NAME}/seed{seed}.json" for seed in range(2)]
    assert found["command"].count("datafree run") == 2 and found["commit"] == "a" * 10
    assert (found["note"], found["printed"], found["cell"]) == ("same note", {"start": 2}, f"{NAME}#claim-kw-c12")


# Numbers


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4))
def test_few_points_have_no_interval(values):
    mean, low, high = ledger.interval(values)
    assert mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9) and low is None and high is None


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(10, 2, 200)
    mean, low, high = ledger.interval(list(values))
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert low == pytest.approx(mean - half, abs=0.15 * half) and high == pytest.approx(mean + half, abs=0.15 * half)
    assert ledger.interval(list(values)) == (mean, low, high), "the resampling is seeded"


@pytest.mark.parametrize(
    "values", [[3.0] * 5, [0, 0, 0, 0, 0], [1, 1, 1, 1, 2], [1e-30] * 4 + [2e-30], [1e9] * 6 + [1e9 + 1]]
)
def test_hard_intervals_are_finite_and_ordered(values):
    mean, low, high = ledger.interval(values)
    assert low <= mean <= high and np.isfinite([low, high]).all()


@pytest.mark.parametrize("values", [[], [float("nan")], [[1.0]], [1.0, float("inf")]])
def test_no_interval_of_no_numbers(values):
    with pytest.raises(DataFreeError):
        ledger.interval(values)


def test_points_of_all_runs_are_joined_by_name(places):
    for seed in range(3):
        leave_record(
            [{"id": "kw-c19", "holds": True, "measured": {"4w4a": {"bns": [88.0 + seed, 89.0 + seed]}, "who": "a"}}],
            seed=seed,
        )
    found = row("kw-c19", places)
    assert found["n"] == 6
    bns = found["measured"]["4w4a.bns"]
    assert bns["points"] == [88, 89, 89, 90, 90, 91] and bns["mean"] == pytest.approx(89.5)
    assert bns["low"] < 89.5 < bns["high"]
    assert found["measured"]["who"] == {"values": ["a", "a", "a"]}
    text = ledger.described(found["measured"])
    assert re.fullmatch(r"4w4a\.bns 89\.5 \[88\.\d+, 90\.\d+\] \(n 6\)", text[0]) and text[1] == "who a"


def test_few_points_are_all_shown():
    assert ledger.described(ledger.summary([{"x": [1.0, 2.0]}, {"ok": True}])) == ["x 1.5 (1, 2)", "ok True"]


# Hostile input


def test_unknown_claims_in_records_are_refused(places):
    leave_record([{"id": "kw-c99", "holds": True}])
    with pytest.raises(DataFreeError, match="seed0.json' has the claim 'kw-c99'"):
        ledger.build(notebook_folder=places / "notebooks")


@pytest.mark.parametrize(
    "text, words",
    [
        ("kw-c99: no data", "'kw-c99'.*not in"),
        ("kw-c18: 3", "a reason"),
        ("- kw-c18", "must map"),
        ("kw-c18: ' '", "a reason"),
    ],
)
def test_broken_reasons(text, words, tmp_path, monkeypatch):
    for name in ("claims.yaml", "tables.yaml"):
        shutil.copy(files.PAPERS / name, tmp_path / name)
    (tmp_path / "not_testable.yaml").write_text(text)
    monkeypatch.setattr(files, "PAPERS", tmp_path)
    with pytest.raises(DataFreeError, match=words):
        ledger.not_testable()


def test_a_broken_notebook_is_named(places):
    (places / "notebooks" / "x.ipynb").write_text('{"cells": 3')
    with pytest.raises(DataFreeError, match="x.ipynb' is not a readable notebook"):
        ledger.build(notebook_folder=places / "notebooks")


# Files and the command line


def test_json_and_csv_agree(places):
    leave_record([{"id": "kw-c12", "holds": True, "measured": {"end": [0.5, 0.25]}, "note": 'comma, "quote"\nline'}])
    rows = ledger.build(notebook_folder=places / "notebooks")
    folder = places / "out"
    ledger.write(rows, [], folder)
    content = json.loads((folder / "ledger.json").read_text())
    assert content["ours"] == [] and len(content["claims"]) == 196
    table = list(csv.DictReader(io.StringIO((folder / "ledger.csv").read_text())))
    assert [r["id"] for r in table] == [r["id"] for r in content["claims"]]
    assert [r["state"] for r in table] == [r["state"] for r in content["claims"]]
    assert {r["state"] for r in table} <= set(ledger.STATES)
    assert next(r for r in table if r["id"] == "kw-c12")["measured"] == "end 0.375 (0.5, 0.25)"


def test_what_is_ours_stands_apart_from_the_claims(places):
    own = {"id": "own-x", "measured": {"gain": 3}, "margin": None, "note": "", "scale": "book", "statement": "X helps."}
    leave_record([{"id": "kw-c12", "holds": True}], additions=[own | {"holds": True}])
    leave_record([], seed=1, additions=[own | {"holds": False}])
    leave_record([], seed=2, overrides={"steps": 3}, additions=[own | {"holds": False}])
    rows, ours = ledger.build(notebook_folder=places / "notebooks"), ledger.additions()
    assert "own-x" not in {r["id"] for r in rows}
    assert [(r["id"], r["state"], r["n"], r["statement"]) for r in ours] == [("own-x", "partly", 2, "X helps.")]
    ledger.write(rows, ours, places / "out")
    assert json.loads((places / "out" / "ledger.json").read_text())["ours"][0]["id"] == "own-x"


def test_counts_add_up(places):
    leave_record([{"id": "kw-c12", "holds": True}, {"id": "lw-c01", "holds": False}])
    counts = ledger.counts(ledger.build(notebook_folder=places / "notebooks"))
    assert sum(map(sum, (c.values() for c in counts.values()))) == 196
    assert counts["knowledge_within"]["reproduced"] == 1 and counts["layerwise"]["not reproduced"] == 1


def test_the_command_writes_and_counts(run_cli, places):
    leave_record([{"id": "kw-c12", "holds": True}])
    code, out, _ = run_cli("ledger")
    assert code == 0 and "knowledge_within: 1 reproduced" in out
    assert len(json.loads((places / "_build" / "ledger.json").read_text())["claims"]) == 196


def test_check_names_every_problem_and_fails(run_cli, places):
    assert run_cli("ledger", "--check")[0] == 0
    leave_record([{"id": "kw-c99", "holds": True}])
    half = leave_record([{"id": "kw-c12", "holds": True}], seed=1)
    half.write_text(half.read_text()[:100])
    code, out, err = run_cli("ledger", "--check")
    assert code == 1
    assert "seed1.json' cannot be read" in out + err and "kw-c99" in out + err
    assert not (places / "_build").exists()


def test_an_unreadable_record_stops_the_command(run_cli, places):
    leave_record([{"id": "kw-c12", "holds": True}]).write_text("{")
    code, _, err = run_cli("ledger")
    assert code == 2 and err.startswith("datafree: record ") and not (places / "_build").exists()
