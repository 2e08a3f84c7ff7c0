"""From records to states, numbers and pages."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from datafree import cli, files
from datafree.book import chapters, pages, parameters
from datafree.errors import DataFreeError
from datafree.evidence import claims as claims_module
from datafree.evidence import ledger

NAME = "01_kw_synthesis"
runner = CliRunner()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Records and the build in a folder of the test; facts and the library stay the project's."""
    monkeypatch.setattr(files, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(files, "RECORDS", tmp_path / "records")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def leave(claims, profile="book", seed=0, overrides=None, fresh=False, **more):
    """Write a record with `claims`: a list of dicts with at least id and holds."""
    content = {
        "notebook": NAME,
        "profile": profile,
        "seed": seed,
        "parameters": {},
        "overrides": overrides or {},
        "command": f"datafree run {NAME} --profile {profile} --seed {seed}",
        "provenance": {"git": {"commit": "a" * 40, "dirty": False}, "machine": {"system": "Linux", "threads": 2}},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.0,
        "peak_memory_mb": 345.0,
        "metrics": {},
        "claims": [{"measured": {}, "margin": None, "note": "", "scale": profile} | c for c in claims],
    }
    folder = (files.BUILD / "records" if fresh else files.RECORDS) / profile / NAME
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{seed}.json"
    path.write_text(json.dumps(content | more))
    return path


def row(claim_id, places):
    return {r["id"]: r for r in ledger.build(notebook_folder=places / "notebooks")}[claim_id]


def notebook(places, *cells):
    """A notebook of markdown and ('code', source) cells."""
    made = [nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else nbformat.v4.new_code_cell(c[1]) for c in cells]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=language), places / "notebooks" / f"{NAME}.ipynb")


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
        leave([{"id": "kw-c12", "holds": h}], seed=seed)
    assert row("kw-c12", places)["state"] == state
    assert row("kw-c12", places)["n"] == len(holds)


@given(st.lists(st.sampled_from([True, False, None])), st.randoms())
def test_the_order_of_verdicts_does_not_matter(holds, random):
    mixed = holds[:]
    random.shuffle(mixed)
    assert ledger.verdict(holds) == ledger.verdict(mixed) == ledger.verdict([*mixed, None])


def test_the_largest_scale_with_a_verdict_counts_alone(places):
    leave([{"id": "kw-c12", "holds": False}], seed=0)
    leave([{"id": "kw-c12", "holds": True, "scale": "reduced"}], seed=1)
    leave([{"id": "kw-c12", "holds": None}], profile="paper")
    found = row("kw-c12", places)
    assert (found["state"], found["scale"], found["n"]) == ("reproduced", "reduced", 1)
    leave([{"id": "kw-c12", "holds": False}], profile="paper", seed=1)
    found = row("kw-c12", places)
    assert (found["state"], found["scale"], found["n"]) == ("not reproduced", "paper", 2)


def test_smoke_runs_and_trials_never_count(places):
    leave([{"id": "kw-c12", "holds": True, "scale": "paper"}], profile="smoke")
    leave([{"id": "kw-c12", "holds": True}], overrides={"steps": 3})
    assert row("kw-c12", places)["state"] == "open" and row("kw-c12", places)["records"] == []


def test_a_measurement_goes_before_a_reason(places):
    leave([{"id": "kw-c18", "holds": None}])
    assert row("kw-c18", places)["state"] == "not testable here"
    leave([{"id": "kw-c18", "holds": True}])
    found = row("kw-c18", places)
    assert found["state"] == "reproduced" and found["reason"] == ""


def test_a_fresh_record_replaces_the_committed_one(places):
    leave([{"id": "kw-c12", "holds": True}])
    leave([{"id": "kw-c12", "holds": False}], fresh=True)
    assert row("kw-c12", places)["state"] == "not reproduced"


def test_a_row_says_where_it_comes_from(places):
    entry = {"id": "kw-c12", "holds": True, "note": "same note", "printed": {"start": 2}, "measured": {"end": 1.0}}
    for seed in range(2):
        leave([entry], seed=seed)
    notebook(places, "# T", "(claim-kw-c12)=\nHere.")
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
        leave(
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
    leave([{"id": "kw-c99", "holds": True}])
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


@given(st.text())
def test_escaped_text_stays_on_one_line(text):
    assert "\n" not in pages.escaped(text) and not re.search(r"(?<!\\)[`$|{}]", pages.escaped(text).replace("\\\\", ""))


# Files and the command line


def test_json_and_csv_agree(places):
    leave([{"id": "kw-c12", "holds": True, "measured": {"end": [0.5, 0.25]}, "note": 'comma, "quote"\nline'}])
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
    leave([{"id": "kw-c12", "holds": True}], additions=[own | {"holds": True}])
    leave([], seed=1, additions=[own | {"holds": False}])
    leave([], seed=2, overrides={"steps": 3}, additions=[own | {"holds": False}])
    rows, ours = ledger.build(notebook_folder=places / "notebooks"), ledger.additions()
    assert "own-x" not in {r["id"] for r in rows}
    assert [(r["id"], r["state"], r["n"], r["statement"]) for r in ours] == [("own-x", "partly", 2, "X helps.")]
    page = pages.ledger_page(rows, ours)
    assert (
        page.index("(ledger-ours)=") > page.index("(ledger-kw-c12)=") and "X helps" in page.split("(ledger-ours)=")[1]
    )
    ledger.write(rows, ours, places / "out")
    assert json.loads((places / "out" / "ledger.json").read_text())["ours"][0]["id"] == "own-x"


def test_counts_add_up(places):
    leave([{"id": "kw-c12", "holds": True}, {"id": "lw-c01", "holds": False}])
    counts = ledger.counts(ledger.build(notebook_folder=places / "notebooks"))
    assert sum(map(sum, (c.values() for c in counts.values()))) == 196
    assert counts["knowledge_within"]["reproduced"] == 1 and counts["layerwise"]["not reproduced"] == 1


@pytest.fixture
def app():
    return cli.app


def test_the_command_writes_and_counts(app, places):
    leave([{"id": "kw-c12", "holds": True}])
    result = runner.invoke(app, ["ledger"])
    assert result.exit_code == 0 and "knowledge_within: 1 reproduced" in result.output
    assert len(json.loads((places / "_build" / "ledger.json").read_text())["claims"]) == 196


def test_check_names_every_problem_and_fails(app, places):
    assert runner.invoke(app, ["ledger", "--check"]).exit_code == 0
    leave([{"id": "kw-c99", "holds": True}])
    half = leave([{"id": "kw-c12", "holds": True}], seed=1)
    half.write_text(half.read_text()[:100])
    result = runner.invoke(app, ["ledger", "--check"])
    assert result.exit_code == 1
    assert "seed1.json' cannot be read" in result.output and "kw-c99" in result.output
    assert not (places / "_build").exists()


def test_an_unreadable_record_stops_the_command(app, places):
    leave([{"id": "kw-c12", "holds": True}]).write_text("{")
    result = runner.invoke(app, ["ledger"])
    assert result.exit_code == 2 and not (places / "_build").exists()


# Pages

CONF = """
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence", "linkify", "substitution", "tasklist"]
nb_execution_mode = "off"
root_doc = "index"
html_theme = "basic"
"""


def _hostile_records():
    nasty = "1. `x` {ref}`no` $a$ | <b> *s* [l](m.md) {{ y }} __z__ https://example.org net.th ::::\n# T"
    claims = [
        {
            "id": "kw-c12",
            "holds": True,
            "measured": {"a|b": [1.0, 2.0], nasty: nasty},
            "note": nasty,
            "printed": {"v": 3},
        },
        {"id": "kw-c13", "holds": False, "measured": {"m": [1.0, 2, 3, 4, 6]}},
        {"id": "kw-c01", "holds": True},
        {"id": "lw-c01", "holds": None},
    ]
    for seed in range(2):
        leave(claims, seed=seed, command=f"datafree run x -p 'a=`b` | c' --seed {seed}")
    leave([{"id": "kw-c12", "holds": True}], profile="smoke")
    leave([{"id": "kw-c13", "holds": True}], profile="paper")


@pytest.fixture
def site(places):
    """The pages of hostile records, built by Sphinx with warnings as errors."""
    pytest.importorskip("sphinx_design")
    source = places / "source"
    _hostile_records()
    notebook(
        places,
        "# Synthesis",
        "(claim-kw-c12)=\nA place.\n\n```{math}\n:label: kw-bns\na = b\n```",
        ("code", "show.source(bns_divergence)"),
        "(kw-moments)=\n## Moments",
        ("code", "moment_mse(1)"),
    )
    pages.write_pages(source, places / "notebooks")
    shutil.copy(places / "notebooks" / f"{NAME}.ipynb", source)
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text(
        f"# Book\n\n```{{toctree}}\nledger\nequations\npaper_scale\nruntimes\n{NAME}\n```\n"
    )
    out = places / "html"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", source, out],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_pages_build_without_a_warning_and_their_links_resolve(site):
    html = (site / "ledger.html").read_text()
    for link in re.findall(r'href="([^"#]+)', html):
        if not link.startswith(("_static", "https://www.sphinx-doc.org")):
            assert (site / link).is_file(), link
    assert f'href="{NAME}.html#claim-kw-c12"' in html
    downloads = [link for link in re.findall(r'href="(_downloads/[^"]+)"', html)]
    names = {link.rpartition("/")[2] for link in downloads}
    assert {"ledger.csv", "ledger.json", "seed0.json", "seed1.json"} <= names
    for link in downloads:
        if link.endswith("seed0.json"):
            assert json.loads((site / link).read_text())["notebook"] == NAME
    reasons = ledger.not_testable()
    assert html.count('id="ledger-') == 3 + len(reasons), (
        "tested claims (kw-c01, kw-c12, kw-c13) and the not testable ones"
    )
    left = sum(c.paper == "knowledge_within" and c.id not in reasons for c in claims_module.claims().values()) - 3
    assert f"Open ({left})" in html, "the open claims of the first paper are folded away"
    text = re.sub(r"<[^>]+>", "", html)
    assert "{ref}" in text and "&lt;b&gt;" in html, "hostile text is shown as it is"

    equations = (site / "equations.html").read_text()
    assert "datafree.core.batchnorm.bns_divergence" in equations and f'href="{NAME}.html#equation-kw-bns"' in equations
    assert f'href="{NAME}.html#kw-moments"' in equations
    runtimes = (site / "runtimes.html").read_text()
    assert runtimes.count("<tr") == 1 + 4 and "345" in runtimes and "smoke" in runtimes and "threads 2" in runtimes


def test_commands_that_differ_in_the_seed_are_said_once():
    one = "datafree run a --profile book --seed 0"
    text = f"{one}; datafree run a --profile book --seed 3; datafree run b --profile book --seed 1 -p 'x=;y'"
    said = pages._commands(text)
    assert said == f"`{one}` and with seeds 3; `datafree run b --profile book --seed 1 -p 'x=;y'`"


def test_pages_of_an_empty_ledger(places):
    pages.write_pages(places / "source", places / "notebooks")
    assert "No run is recorded yet." in (places / "source" / "runtimes.md").read_text()
    page = (places / "source" / "ledger.md").read_text()
    assert all(claim_id in page for claim_id in claims_module.claims())


def test_a_real_chapter_reaches_the_ledger(places, monkeypatch):
    """From begin() to the state, through the files."""
    monkeypatch.delenv("DATAFREE_RECORD", raising=False)
    for seed in range(5):
        chapter = chapters.begin(NAME, parameters.NOTEBOOKS[NAME](seed=seed).model_dump())
        chapter.claim("kw-c12", holds=seed < 4, measured={"ratio": 0.1 * seed})
        chapter.finish()
    found = row("kw-c12", places)
    assert (found["state"], found["n"], found["scale"]) == ("partly", 5, "book")
    assert found["measured"]["ratio"]["mean"] == pytest.approx(0.2)
