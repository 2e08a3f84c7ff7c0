"""From records to states."""

import csv
import io
import itertools
import json
import re

import jsonschema
import numpy as np
import pytest
from conftest import RECORDED, leave_record, record_of, write_chapter

from datafree import files
from datafree.errors import DataFreeError
from datafree.evidence import claims as claims_module
from datafree.evidence import ledger
from datafree.evidence.criteria import above, within
from datafree.evidence.fingerprint import fingerprint
from datafree.evidence.measured import pack
from datafree.evidence.record import digest

NAME = RECORDED

pytestmark = pytest.mark.usefixtures("places")


def row(claim_id, places):
    return {r["id"]: r for r in ledger.build(notebook_folder=places / "notebooks")}[claim_id]


def leave_gains(*gains, profile="book"):
    """One record a seed with these gains."""
    for seed, value in enumerate(gains):
        leave_record({"gain": value}, profile, seed)


# States


def test_without_records_everything_is_open_or_not_testable(places):
    rows = ledger.build(notebook_folder=places / "notebooks")
    assert [r["id"] for r in rows] == list(claims_module.claims()) and len(rows) == 196
    untestable = {r["id"] for r in rows if r["state"] == "not testable here"}
    assert untestable == set(ledger.not_testable()) and {"kw-c18", "ud-c01", "lw-c31", "fr-c37"} <= untestable
    assert all(r["state"] == "open" for r in rows if not r["reason"])
    assert all(r["n"] == 0 and r["scale"] is None and r["effect"] is None for r in rows)
    assert "GPU" in row("kw-c24", places)["reason"]


@pytest.mark.parametrize(
    "gains, state",
    [
        ([1.0, 1.1, 0.9], "reproduced"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([1.0, -1.1, 0.9], "undecided"),
        ([1.0, 1.1], "undecided"),
        ([1.0, 1.0, 1.0], "undecided"),
        ([], "open"),
    ],
)
def test_the_state_follows_from_the_effects(gains, state, places, gain):
    leave_gains(*gains)
    found = row("kw-c12", places)
    assert found["state"] == state and found["n"] == len(set(gains)), "runs that a seed does not change are one"


def test_the_order_of_records_does_not_matter(gain, places):
    records = [record_of({"gain": value}, seed=seed) for seed, value in enumerate([1.0, 0.2, -0.1, 0.7])]
    orders = list(itertools.permutations(records))[::5]
    rows = [ledger.build(list(mixed), places / "notebooks") for mixed in orders]
    found = [next(r for r in each if r["id"] == "kw-c12") for each in rows]
    assert len({r["state"] for r in found}) == 1
    assert np.ptp([r["effect"]["low"] for r in found]) < 1e-12


@pytest.mark.parametrize("parts, state", [((1, 1), "reproduced"), ((1, -1), "partly"), ((-1, -1), "contradicted")])
def test_parts_of_a_compound_claim_stand_side_by_side(parts, state, places, register):
    @register("kw-c19")
    def two(run):
        return {"direction": above(run.metric("a")), "size": above(run.metric("b"))}

    for seed in range(3):
        leave_record({"a": parts[0] + 0.01 * seed, "b": parts[1] + 0.01 * seed}, seed=seed)
    found = row("kw-c19", places)
    assert found["state"] == state
    shown = found["scales"]["book"]["parts"]
    assert [shown[name]["state"] == "reproduced" for name in ("direction", "size")] == [p > 0 for p in parts]
    assert found["effect"]["mean"] == pytest.approx(min(parts) + 0.01), "the part that speaks least for the claim"


def test_all_scales_stand_side_by_side_and_the_nearest_with_three_seeds_counts(places, gain):
    leave_gains(-1.0, -1.1, -0.9)
    leave_gains(1.0, profile="reduced")
    found = row("kw-c12", places)
    assert (found["state"], found["scale"], found["n"]) == ("contradicted", "book", 3), (
        "one reduced seed overrides nothing"
    )
    assert list(found["scales"]) == ["reduced", "book"] and found["scales"]["reduced"]["n"] == 1
    assert not found["disagreement"], "an undecided scale disagrees with nobody"
    leave_gains(1.0, 1.2, 0.8, profile="reduced")
    found = row("kw-c12", places)
    assert (found["state"], found["scale"]) == ("reproduced", "reduced") and found["disagreement"]
    leave_gains(0.5, profile="paper")
    assert row("kw-c12", places)["scale"] == "reduced"


def test_a_changed_tolerance_changes_a_state_without_a_run(places, register):
    tolerance = {"now": 0.5}

    @register("kw-c17", tolerance=0.5, why="a made-up reason")
    def near(run):
        return within(run.metric("gain"), 0.0, tolerance["now"])

    leave_gains(0.30, 0.31, 0.29)
    before = {path: path.read_bytes() for path in files.RECORDS.rglob("*.json")}
    assert row("kw-c17", places)["state"] == "reproduced"
    tolerance["now"] = 0.2
    assert row("kw-c17", places)["state"] == "contradicted"
    assert {path: path.read_bytes() for path in files.RECORDS.rglob("*.json")} == before


def test_packed_images_decide_what_unpaired_accuracies_cannot(places, register):
    @register("kw-c27")
    def better(run):
        return above(run.accuracy("top1", "BNS"), run.accuracy("top1", "G"))

    def leave(seed, kept):
        generator = np.random.default_rng(seed)
        other = generator.random(1000) < 0.8
        ours = other.copy()
        ours[generator.choice(np.flatnonzero(~other), 15, replace=False)] = True
        metrics = {"top1": {"BNS": 100 * ours.mean(), "G": 100 * other.mean()}}
        leave_record(metrics, seed=seed, hits={"top1/BNS": pack(ours), "top1/G": pack(other)} if kept else {})

    for kept, state in ((False, "undecided"), (True, "reproduced")):
        for seed in range(3):
            leave(seed, kept)
        assert row("kw-c27", places)["state"] == state


def test_smoke_runs_trials_and_other_chapters_never_count(places, gain):
    leave_record({"gain": 1.0}, profile="smoke")
    leave_record({"gain": 1.0}, overrides={"steps": 3})
    leave_record({"gain": 1.0}, seed=1, notebook="02_kw_calibration")
    found = row("kw-c12", places)
    assert found["state"] == "open" and found["records"] == [] and found["scales"] == {}


def test_a_run_that_is_too_short_counts_in_the_book_only(places, register):
    @register("kw-c12", needs={"steps": 100})
    def long(run):
        return above(run.metric("gain"))

    leave_gains(1.0, 1.1, 0.9, profile="reduced")
    assert row("kw-c12", places)["state"] == "open"
    leave_gains(1.0, 1.1, 0.9)
    assert (row("kw-c12", places)["state"], row("kw-c12", places)["scale"]) == ("reproduced", "book")


def test_what_runs_lack_is_said(places, gain):
    leave_record({"other": 1.0})
    found = row("kw-c12", places)
    assert found["state"] == "open"
    assert found["lacking"] == [f"records/book/{NAME}/seed0.json: the run has no metric 'gain'."]


def test_a_measurement_goes_before_a_reason(places, register):
    @register("kw-c18")
    def anything(run):
        return above(run.metric("gain"))

    leave_record({})
    assert row("kw-c18", places)["state"] == "not testable here"
    leave_gains(1.0, 1.1, 0.9)
    found = row("kw-c18", places)
    assert found["state"] == "reproduced" and found["reason"] == ""


def test_a_fresh_record_replaces_the_committed_one(places, gain):
    leave_gains(1.0, 1.1, 0.9)
    for seed in range(3):
        leave_record({"gain": -1.0 - 0.1 * seed}, seed=seed, fresh=True)
    assert row("kw-c12", places)["state"] == "contradicted"


def test_a_stand_in_is_named_and_counted_apart(places, register):
    @register("kw-c12", stand_in={"book": "one network for three"})
    def somewhere(run):
        return above(run.metric("gain"))

    leave_gains(1.0, 1.1, 0.9)
    found = row("kw-c12", places)
    assert found["stand_in"] == "one network for three" and ledger.on_a_stand_in(found)
    leave_gains(1.0, 1.1, 0.9, profile="paper")
    found = row("kw-c12", places)
    assert found["stand_in"] is None and not ledger.on_a_stand_in(found)


def test_an_identity_is_counted_apart_and_fails_when_one_run_does(places, register):
    @register("kw-c01", identity=True)
    def exact(run):
        return within(run.metric("error"), 0, 1e-9)

    leave_record({"error": 1e-12})
    found = row("kw-c01", places)
    assert found["state"] == "identity" and found["identity"] and found["n"] == 1
    leave_record({"error": 1e-3}, seed=1)
    assert row("kw-c01", places)["state"] == "contradicted"


def test_a_record_is_stale_where_its_fingerprint_is_not_todays(places, gain):
    content = record_of({"gain": 1.0})
    leave_record({"gain": 1.0}, fingerprint=fingerprint(NAME, content["parameters"]))
    assert not row("kw-c12", places)["stale"]
    leave_record({"gain": 1.1}, seed=1, fingerprint="0" * 16)
    assert row("kw-c12", places)["stale"], "one of two is"
    leave_record({"gain": 1.0})
    assert row("kw-c12", places)["stale"], "a record from before there were fingerprints is"


def test_a_stale_record_of_another_form_does_not_count_and_one_of_today_fails_loudly(places, register):
    @register("kw-c12")
    def first(run):
        return above(run.metric("gains")["first"])

    leave_record({"gains": [1.0]}, fingerprint="0" * 16)
    found = row("kw-c12", places)
    assert found["state"] == "open" and "in another form today" in found["lacking"][0]
    today = fingerprint(NAME, record_of()["parameters"])
    leave_record({"gains": [1.0]}, fingerprint=today)
    with pytest.raises(TypeError):
        row("kw-c12", places)


def test_a_row_says_where_it_comes_from(places, gain):
    leave_gains(1.0, 1.1)
    write_chapter(places, "# T", "(claim-kw-c12)=\nHere.")
    found = row("kw-c12", places)
    assert found["records"] == [f"records/book/{NAME}/seed{seed}.json" for seed in range(2)]
    assert found["command"].count("datafree run") == 2 and found["commit"] == "a" * 10
    assert found["cell"] == f"{NAME}#claim-kw-c12" and found["criterion"] == "The gain is above zero."


def test_the_notes_reach_their_rows(places):
    assert len(ledger.notes()) > 100
    found = row("fr-c20", places)
    assert "starts much further below" in found["note"] and found["note"] == ledger.notes()["fr-c20"]


# Hostile input


def test_a_criterion_for_no_claim_is_refused(places, register):
    register("kw-c99")(lambda run: above(1.0))
    with pytest.raises(DataFreeError, match="'kw-c99' is for a claim that is not in claims.yaml"):
        ledger.build(notebook_folder=places / "notebooks")


@pytest.mark.parametrize("name, read", [("not_testable.yaml", ledger.not_testable), ("notes.yaml", ledger.notes)])
@pytest.mark.parametrize(
    "text, words",
    [
        ("kw-c99: no data", "'kw-c99'.*not in"),
        ("kw-c18: 3", "a (reason|note)"),
        ("- kw-c18", "must map"),
        ("kw-c18: ' '", "a (reason|note)"),
        ("kw-c18: a\nkw-c18: b", "given twice"),
    ],
)
def test_broken_reasons_and_notes(name, read, text, words, register):
    (files.PAPERS / name).write_text(text)
    with pytest.raises(DataFreeError, match=words):
        read()


def test_a_broken_notebook_is_named(places):
    (places / "notebooks" / "x.ipynb").write_text('{"cells": 3')
    with pytest.raises(DataFreeError, match="x.ipynb' is not a readable notebook"):
        ledger.build(notebook_folder=places / "notebooks")


# Files and the command line


def written(places):
    """ledger.json and ledger.csv of the rows as they are."""
    rows, ours = (make(notebook_folder=places / "notebooks") for make in (ledger.build, ledger.ours))
    ledger.write(rows, ours, places / "out")
    table = csv.DictReader(io.StringIO((places / "out" / "ledger.csv").read_text()))
    return json.loads((places / "out" / "ledger.json").read_text()), list(table)


def test_json_and_csv_agree(places, register):
    @register("kw-c12", stand_in='comma, "quote"\nline')
    def above_zero(run):
        return above(run.metric("gain"))

    leave_gains(1.0, 1.1, 0.9)
    content, table = written(places)
    assert content["ours"] == [] and len(content["claims"]) == 196
    for key in ("id", "state", "statement"):
        assert [r[key] for r in table] == [r[key] for r in content["claims"]]
    assert {r["state"] for r in table} <= set(ledger.STATES)
    mine = next(r for r in table if r["id"] == "kw-c12")
    assert float(mine["mean"]) == pytest.approx(1.0) and float(mine["low"]) > 0
    assert mine["stand_in"] == 'comma, "quote"\nline'


@pytest.fixture
def schema():
    content = json.loads((files.PAPERS / ledger.SCHEMA).read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def test_the_committed_records_give_a_ledger_that_fits_its_schema(schema, places, monkeypatch):
    monkeypatch.setattr(files, "RECORDS", files.ROOT / "book" / "records")
    content, _ = written(places)
    assert list(schema.iter_errors(content)) == []
    assert json.loads((places / "out" / ledger.SCHEMA).read_text()) == schema.schema, "it lies beside the ledger"
    assert len(content["ours"]) > 5 and {r["state"] for r in content["claims"]} > {"identity", "partly", "open"}


@pytest.mark.parametrize(
    "change",
    [{"state": "not reproduced"}, {"n": -1}, {"colour": "red"}, {"records": ["/home/x.json"]}, {"tolerance": "1"}],
)
def test_the_schema_refuses_what_no_ledger_holds(schema, places, gain, change):
    leave_gains(1.0, 1.1, 0.9)
    content, _ = written(places)
    assert schema.is_valid(content)
    content["claims"][11] |= change
    assert not schema.is_valid(content)


def test_what_is_ours_stands_apart_from_the_claims(places, register):
    @register("own-x", statement="X helps.")
    def x_helps(run):
        return above(run.metric("gain"))

    leave_gains(1.0, 1.1, 0.9)
    content, table = written(places)
    assert "own-x" not in {r["id"] for r in content["claims"]}
    (own,) = content["ours"]
    assert (own["id"], own["state"], own["n"], own["statement"]) == ("own-x", "reproduced", 3, "X helps.")
    assert table[-1]["id"] == "own-x"


def test_counts_add_up(places, gain):
    leave_gains(1.0, 1.1, 0.9)
    counts = ledger.counts(ledger.build(notebook_folder=places / "notebooks"))
    assert sum(sum(c.values()) for c in counts.values()) == 196
    assert counts["knowledge_within"]["reproduced"] == 1 and counts["layerwise"]["reproduced"] == 0


def test_the_command_writes_and_counts(run_cli, places, gain):
    leave_gains(1.0, 1.1, 0.9)
    code, out, err = run_cli("ledger")
    assert code == 0 and re.search(r"knowledge_within: 1 reproduced, \d+ not testable here, \d+ open", out), err
    assert len(json.loads((places / "_build" / "ledger.json").read_text())["claims"]) == 196


def test_check_names_every_problem_and_fails(run_cli, places, gain, register):
    assert run_cli("ledger", "--check")[0] == 0
    register("kw-c99")(lambda run: above(1.0))
    half = leave_record({"gain": 1.0}, seed=1)
    half.write_text(half.read_text()[:100])
    code, out, err = run_cli("ledger", "--check")
    assert code == 1
    assert "seed1.json' cannot be read" in out + err and "kw-c99" in out + err
    assert not (places / "_build" / "ledger.json").exists()


def test_an_unreadable_record_stops_the_command(run_cli, places):
    leave_record().write_text("{")
    code, _, err = run_cli("ledger")
    assert code == 2 and err.startswith("datafree: record ") and not (places / "_build" / "ledger.json").exists()


def test_the_committed_records_can_all_be_read(run_cli, monkeypatch):
    monkeypatch.setattr(files, "RECORDS", files.ROOT / "book" / "records")
    code, out, err = run_cli("ledger", "--check")
    assert code == 0, err
    records = [json.loads(p.read_text()) for p in files.RECORDS.glob("*/*/seed*.json")]
    assert len(records) > 30 and all(r["digest"] == digest(r) for r in records)
