"""The generated pages: hostile text is shown as it is, links resolve, and numbers are those of the records."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from bs4 import BeautifulSoup
from conftest import RECORDED, leave_record, leave_speed, speed_record, write_chapter
from hypothesis import given
from hypothesis import strategies as st

from datafree import files
from datafree.book import effects, markdown, pages
from datafree.evidence import claims as claims_module
from datafree.evidence import ledger
from datafree.evidence.criteria import above, within


@given(st.text())
def test_escaped_text_stays_on_one_line(text):
    assert "\n" not in markdown.escaped(text) and not re.search(
        r"(?<!\\)[`$|{}]", markdown.escaped(text).replace("\\\\", "")
    )


pytestmark = pytest.mark.usefixtures("places")

CONF = f"""
import sys
sys.path.insert(0, {str(files.ROOT / "book" / "_ext")!r})
extensions = ["myst_nb", "sphinx_design", "claims", "mathematics"]
html_math_renderer = "katex"
myst_enable_extensions = ["dollarmath", "colon_fence", "linkify", "substitution", "tasklist", "attrs_inline"]
nb_execution_mode = "off"
root_doc = "index"
exclude_patterns = ["handout_*", "instructor*"]  # these link to all chapters, of which there is one here
html_theme = "basic"
html_static_path = [{str(files.ROOT / "book" / "_static")!r}]
"""

NASTY = "1. `x` {ref}`no` $a$ | <b> *s* [l](m.md) {{ y }} __z__ https://example.org net.th ::::\n# T\n`````` \n</td>"


def _render(source, out):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", source, out]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def hostile(places, register):
    """Criteria and records full of markup: part names, reasons, commands, stand-ins."""

    @register("kw-c12", tolerance=0.1, why=NASTY, stand_in=NASTY)
    def parts_named_by_the_record(run):
        return {name: above(value) for name, value in run.metric("parts").items()}

    parts_named_by_the_record.__doc__ = NASTY

    @register("kw-c13")
    def gain(run):
        """The gain is above zero."""
        return above(run.metric("gain"))

    @register("kw-c01", identity=True)
    def exact(run):
        return within(run.metric("error"), 0, 1e-9)

    @register("own-x", statement=NASTY)
    def ours(run):
        return above(run.metric("no", NASTY))

    (files.PAPERS / "notes.yaml").write_text("kw-c13: " + json.dumps(NASTY))
    for seed in range(3):
        metrics = {"parts": {NASTY: 1 + seed / 10, "a|b": -1 - seed / 10}, "gain": 1 + seed / 10, "error": 1e-12}
        leave_record(metrics, seed=seed, command=f"datafree run x -p 'a=`b` | c' --seed {seed}")
    leave_speed(speed_record(NASTY))
    leave_record({"gain": 1.0}, profile="smoke")
    leave_record({"gain": 2.0}, profile="paper")
    leave_record({"parts": {NASTY: 1.2, "a|b": -1.2}, "gain": 1.15, "error": 1e-12}, fresh=True, seed=1)
    return places


BUILT = []
"""The site of hostile records, once it is built: it takes seconds, and the tests only read it."""


@pytest.fixture
def site(hostile):
    """The pages of hostile records, built by Sphinx with warnings as errors."""
    pytest.importorskip("sphinx_design")
    if BUILT:
        return BUILT[0]
    source = hostile / "source"
    write_chapter(
        hostile,
        "# Synthesis",
        "(claim-kw-c12)=\nA place.\n\n:::{claim} kw-c12\n:::\n\n```{math}\n:label: kw-bns\na = b\n```",
        ("code", "from datafree.core.batchnorm import bns_divergence, moment_mse\nshow.source(bns_divergence)"),
        "(kw-moments)=\n## Moments\n\n:::{claim} kw-c18\n:::",
        ("code", "moment_mse(1)"),
    )
    pages.write_pages(source, hostile / "notebooks")
    pages.write_equations(source / "equations.md", hostile / "notebooks")
    (source / "notebooks").mkdir()
    shutil.copy(hostile / "notebooks" / f"{RECORDED}.ipynb", source / f"{RECORDED}.ipynb")
    (source / "notebooks" / "below.md").write_text("# Below\n\n:::{claim} kw-c13\n:::\n")
    (source / "conf.py").write_text(CONF)
    names = [
        "ledger",
        "on_your_machine",
        "equations",
        "paper_scale",
        "runtimes",
        "bench",
        "faults",
        "reproducible",
        RECORDED,
        "notebooks/below",
    ]
    (source / "index.md").write_text("# Book\n\n```{toctree}\n" + "\n".join(names) + "\n```\n")
    done = _render(source, hostile / "html")
    assert done.returncode == 0, done.stderr
    BUILT.append(hostile / "html")
    return BUILT[0]


def read(page):
    return BeautifulSoup(page.read_text(), "html.parser")


def test_pages_build_without_a_warning_and_their_links_resolve(site):
    html = (site / "ledger.html").read_text()
    for link in re.findall(r'href="([^"#]+)', html):
        if not link.startswith(("_static", "https://www.sphinx-doc.org")):
            assert (site / link).is_file(), link
    assert f'href="{RECORDED}.html#claim-kw-c12"' in html
    downloads = re.findall(r'href="(_downloads/[^"]+)"', html)
    names = {link.rpartition("/")[2] for link in downloads}
    assert {"ledger.csv", "ledger.json", "ledger.schema.json", "seed0.json", "seed1.json"} <= names
    for link in downloads:
        if link.endswith("seed0.json"):
            assert json.loads((site / link).read_text())["notebook"] == RECORDED

    equations = (site / "equations.html").read_text()
    assert (
        "datafree.core.batchnorm.bns_divergence" in equations and f'href="{RECORDED}.html#equation-kw-bns"' in equations
    )
    assert f'href="{RECORDED}.html#kw-moments"' in equations
    runtimes = (site / "runtimes.html").read_text()
    assert (
        runtimes.count("<tr") == 1 + 5 + 1 + 3 and "345" in runtimes and "smoke" in runtimes and "threads 2" in runtimes
    )

    speed = read(site / "bench.html")
    assert speed.img["alt"].startswith("step over batch") and (site / speed.img["src"]).is_file()
    assert "__z__" in speed.get_text() and not speed.select("td b")

    machine = read(site / "on_your_machine.html").get_text()
    assert f"{RECORDED}, seed 1" in machine and "gain: 1.1 -> 1.15" in machine

    # the ledger's table and panels
    soup = read(site / "ledger.html")
    known = [*claims_module.claims(), "own-x"]
    rows = soup.select("table.ledger-table tbody tr")
    assert [row.td.get_text() for row in rows] == known
    assert [row.td.a["href"] for row in rows] == [f"#ledger-{name}" for name in known]
    assert all(soup.find(id=f"ledger-{name}") for name in known), "every claim has its permalink"
    assert len(soup.select("details.panels details")) == len(known), "a panel a claim, folded by paper"
    assert soup.find("script", src="_static/ledger.js") and (site / "_static" / "ledger.js").is_file()
    states = {row.td.get_text(): row["data-state"] for row in rows}
    assert (states["kw-c13"], states["kw-c01"], states["kw-c18"]) == ("reproduced", "identity", "not testable here")

    # hostile text is shown as it is
    text = " ".join(soup.get_text().split())
    shown = " ".join(NASTY.split())
    assert not soup.find("b") and not soup.find(string="T") and "{ref}" in text
    row = next(row for row in rows if row.td.get_text() == "own-x")
    assert row.find(attrs={"data-head": "statement"}).get_text() == shown
    own = next(r for r in json.loads((site.parent / "source" / "ledger.json").read_text())["ours"])
    assert own["state"] == "open" and "run has no metric" in own["lacking"][0]


def panel(site, name):
    target = read(site / "ledger.html").find(id=f"ledger-{name}")
    return target if target.name == "details" else target.find("details") or target.find_next("details")


def test_a_panel_has_all_that_an_auditor_needs(site):
    text = " ".join(panel(site, "kw-c13").get_text().split())
    for words in ("reproduced", "scale book", "paper", "The gain is above zero.", "What n counts 3 independent runs",
                  "Note 1. `x`", "datafree ledger verify kw-c13", "Stale", "a=`b` | c", "(no interval)"):  # fmt: skip
        assert words in text, words
    rows = [[cell.get_text() for cell in row.select("td")][:4] for row in panel(site, "kw-c13").select("tbody tr")]
    assert rows == [["paper", "whole", "undecided", "1"], ["book", "whole", "reproduced", "3"]], "scales side by side"
    assert "Tolerance 0.1 points: 1. `x`" in " ".join(panel(site, "kw-c12").get_text().split())


def test_a_claims_box_is_drawn_in_a_chapter(site):
    box = read(site / "notebooks" / "below.html").select_one("details.claim")
    assert box["class"] == ["claim", "claim-reproduced"] and "n = 3, scale book" in box.get_text()
    assert box.find("a")["href"] == "../ledger.html#ledger-kw-c13" and box.select_one("svg.effect path.zero")
    boxes = {b.select_one(".claim-id").get_text(): b for b in read(site / f"{RECORDED}.html").select("details.claim")}
    assert "not testable here" in boxes["kw-c18"].get_text() and not boxes["kw-c18"].find("svg")
    assert " ".join(NASTY.split()) in boxes["kw-c12"].get_text() and not boxes["kw-c12"].find("b")


def test_a_box_for_an_unknown_claim_is_a_warning(places, gain):
    source = places / "source"
    ledger.write(ledger.build(notebook_folder=places / "notebooks"), [], source)
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text("# Book\n\n:::{claim} kw-c12\n:::\n\n:::{claim} kw-c99\n:::\n")
    done = _render(source, places / "html")
    assert done.returncode and "claim 'kw-c99' is not in the ledger" in done.stderr and "kw-c12" not in done.stderr


def test_commands_that_differ_in_the_seed_are_said_once():
    one = "datafree run a --profile book --seed 0"
    text = f"{one}; datafree run a --profile book --seed 3; datafree run b --profile book --seed 1 -p 'x=;y'"
    assert pages.commands(text) == [(one, ["3"]), ("datafree run b --profile book --seed 1 -p 'x=;y'", [])]
    assert pages.commands("") == []


def the_page(places):
    rows, ours = (make(notebook_folder=places / "notebooks") for make in (ledger.build, ledger.ours))
    return pages.ledger_page(rows, ours)


def test_what_is_ours_stands_behind_the_claims(places, register):
    register("own-x", statement="X helps.")(lambda run: above(1.0))
    page = the_page(places)
    assert page.index("(ledger-ours)=") > page.index("(ledger-kw-c12)=")
    assert "X helps" in page.split("(ledger-ours)=")[1]


def test_stand_ins_are_counted_apart(places, register):
    @register("kw-c12", stand_in="one network for three")
    def somewhere(run):
        return above(run.metric("gain"))

    @register("kw-c13")
    def here(run):
        return above(run.metric("gain"))

    for seed in range(3):
        leave_record({"gain": 1 + seed / 10}, seed=seed)
    table = BeautifulSoup(the_page(places), "html.parser").select_one("table.ledger-counts")
    first, second = ([[c.get_text() for c in row] for row in body.select("tr")[1:]] for body in table.select("tbody"))
    assert first[0][:2] == ["Knowledge Within", "1"] and second == [["Knowledge Within", "1", *[""] * 6, "1"]]
    assert sum(int(row[-1]) for row in first + second) == 196


def test_what_n_counts_is_said():
    row = {"records": ["a", "b", "c"], "identity": False, "n": 3}
    assert pages.counted(row) == "3 independent runs of the chapter, a seed each."
    assert pages.counted(row | {"n": 1}).startswith("1 of 3 runs: the others repeat")
    assert "algebra" in pages.counted(row | {"identity": True}) and pages.counted(row | {"records": []}) == ""


def test_pages_of_an_empty_ledger(places):
    pages.write_pages(places / "source", places / "notebooks")
    assert "No run is recorded yet." in (places / "source" / "runtimes.md").read_text()
    assert "There is no fresh record" in (places / "source" / "on_your_machine.md").read_text()
    page = (places / "source" / "ledger.md").read_text()
    assert all(f"(ledger-{claim_id})=" in page for claim_id in claims_module.claims())


def test_a_fresh_record_stands_beside_the_committed_one_of_the_same_seed(places, gain):
    for seed in (0, 1):
        leave_record({"gain": 1.0}, seed=seed)
    leave_record({"gain": 1.0}, fresh=True)
    leave_record({"gain": -1.0}, seed=1, fresh=True)
    leave_record({"gain": 1.0}, seed=2, fresh=True)
    page = pages.machine_page()
    rows = [line for line in page.splitlines() if line.startswith("| 01")]
    name = markdown.escaped(RECORDED)
    assert rows == [
        f"| {name}, seed 0 | 1 | 0 | 0 | 0 |",
        f"| {name}, seed 1 | 0 | 1 | 1 | 1 |",
        f"| {name}, seed 2 | no committed record of this seed | | | |",
    ]
    assert "seed 1: a flip beyond noise" in page and "seed 0: it agrees" in page


def test_every_expression_of_a_template_that_holds_free_text_is_escaped():
    """The hostile records try most of these; this finds one that is added later."""
    for path in sorted((files.ROOT / "lib" / "datafree" / "book").glob("*.md.j2")):
        for expression in re.findall(r"{{(?! *(?:part|html|state|card)\()(.*?)}}", path.read_text()):
            free = re.search(
                r"\b(statement|where|note|reason|remark|commit|what|function|tests|words|line|why|unit|kind|effect_text)\b",
                expression,
            )
            assert not free or re.search(r"\| *(text|code|html|prose)\b|map\(\"code\"\)", expression), (
                path.name,
                expression,
            )


@pytest.mark.parametrize("text, said", [("a", "`a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```")])
def test_code_is_fenced_by_more_backticks_than_it_holds(text, said):
    assert markdown.code(text) == said


# Effects


@pytest.mark.parametrize(
    "effect, said",
    [
        ((1.0, 0.5, 1.5), "+1 [+0.5, +1.5] points"),
        ((1.0, None, None), "+1 points (no interval)"),
        ((-4.3, None, 1.0), "-4.3 [−∞, +1] points"),
        ((1e-12, 1e-12, 1e-12), "+1e-12 points"),
    ],
)
def test_effects_in_words(effect, said):
    assert effects.described(dict(zip(("mean", "low", "high"), effect), unit="points")) == said


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_pictures_keep_their_order_and_their_side_of_zero(mean, down, up):
    effect = {"mean": mean, "low": mean - down, "high": mean + up}
    at = effects.picture(effect, effects.reach([effect]))
    assert 0 <= at["low"] <= at["mean"] <= at["high"] <= at["width"]
    middle = at["width"] / 2
    assert (at["low"] >= middle) or effect["low"] < 0
    assert (at["high"] <= middle) or effect["high"] > 0


def test_an_open_interval_has_no_picture():
    effect = {"mean": 1.0, "low": None, "high": 2.0}
    assert (
        effects.picture(effect, 1.0) is None and effects.picture(None, 1.0) is None and effects.reach([effect]) == 1.0
    )
