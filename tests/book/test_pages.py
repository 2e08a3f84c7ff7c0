"""The generated pages: hostile text is shown as it is, links resolve, and numbers are those of the records."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import RECORDED, leave_record, write_chapter
from hypothesis import given
from hypothesis import strategies as st

from datafree import files
from datafree.book import markdown, pages
from datafree.evidence import claims as claims_module
from datafree.evidence import ledger


@given(st.text())
def test_escaped_text_stays_on_one_line(text):
    assert "\n" not in markdown.escaped(text) and not re.search(
        r"(?<!\\)[`$|{}]", markdown.escaped(text).replace("\\\\", "")
    )


pytestmark = pytest.mark.usefixtures("places")

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
        leave_record(claims, seed=seed, command=f"datafree run x -p 'a=`b` | c' --seed {seed}")
    leave_record([{"id": "kw-c12", "holds": True}], profile="smoke")
    leave_record([{"id": "kw-c13", "holds": True}], profile="paper")


@pytest.fixture
def site(places):
    """The pages of hostile records, built by Sphinx with warnings as errors."""
    pytest.importorskip("sphinx_design")
    source = places / "source"
    _hostile_records()
    write_chapter(
        places,
        "# Synthesis",
        "(claim-kw-c12)=\nA place.\n\n```{math}\n:label: kw-bns\na = b\n```",
        ("code", "from datafree.core.batchnorm import bns_divergence, moment_mse\nshow.source(bns_divergence)"),
        "(kw-moments)=\n## Moments",
        ("code", "moment_mse(1)"),
    )
    pages.write_pages(source, places / "notebooks")
    shutil.copy(places / "notebooks" / f"{RECORDED}.ipynb", source)
    (source / "conf.py").write_text(CONF)
    (source / "index.md").write_text(
        f"# Book\n\n```{{toctree}}\nledger\nequations\npaper_scale\nruntimes\n{RECORDED}\n```\n"
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
    assert f'href="{RECORDED}.html#claim-kw-c12"' in html
    downloads = [link for link in re.findall(r'href="(_downloads/[^"]+)"', html)]
    names = {link.rpartition("/")[2] for link in downloads}
    assert {"ledger.csv", "ledger.json", "seed0.json", "seed1.json"} <= names
    for link in downloads:
        if link.endswith("seed0.json"):
            assert json.loads((site / link).read_text())["notebook"] == RECORDED
    reasons = ledger.not_testable()
    assert html.count('id="ledger-') == 3 + len(reasons), (
        "tested claims (kw-c01, kw-c12, kw-c13) and the not testable ones"
    )
    left = sum(c.paper == "knowledge_within" and c.id not in reasons for c in claims_module.claims().values()) - 3
    assert f"Open ({left})" in html, "the open claims of the first paper are folded away"
    text = re.sub(r"<[^>]+>", "", html)
    assert "{ref}" in text and "&lt;b&gt;" in html, "hostile text is shown as it is"

    equations = (site / "equations.html").read_text()
    assert (
        "datafree.core.batchnorm.bns_divergence" in equations and f'href="{RECORDED}.html#equation-kw-bns"' in equations
    )
    assert f'href="{RECORDED}.html#kw-moments"' in equations
    runtimes = (site / "runtimes.html").read_text()
    assert runtimes.count("<tr") == 1 + 4 and "345" in runtimes and "smoke" in runtimes and "threads 2" in runtimes


def test_commands_that_differ_in_the_seed_are_said_once():
    one = "datafree run a --profile book --seed 0"
    text = f"{one}; datafree run a --profile book --seed 3; datafree run b --profile book --seed 1 -p 'x=;y'"
    assert pages.commands(text) == [(one, ["3"]), ("datafree run b --profile book --seed 1 -p 'x=;y'", [])]
    assert pages.commands("") == []


def test_what_is_ours_stands_behind_the_claims(places):
    own = {"id": "own-x", "holds": True, "measured": {"gain": 3}, "margin": None, "note": "", "scale": "book"}
    leave_record([{"id": "kw-c12", "holds": True}], additions=[own | {"statement": "X helps."}])
    page = pages.ledger_page(ledger.build(notebook_folder=places / "notebooks"), ledger.additions())
    assert page.index("(ledger-ours)=") > page.index("(ledger-kw-c12)=")
    assert "X helps" in page.split("(ledger-ours)=")[1]


def test_pages_of_an_empty_ledger(places):
    pages.write_pages(places / "source", places / "notebooks")
    assert "No run is recorded yet." in (places / "source" / "runtimes.md").read_text()
    page = (places / "source" / "ledger.md").read_text()
    assert all(claim_id in page for claim_id in claims_module.claims())


def test_every_expression_of_a_template_that_holds_free_text_is_escaped():
    """The hostile records try most of these; this finds one that is added later."""
    for path in sorted((files.ROOT / "lib" / "datafree" / "book").glob("*.md.j2")):
        for expression in re.findall(r"{{(?! *(?:part|values|card)\()(.*?)}}", path.read_text()):
            free = re.search(
                r"\b(statement|where|note|reason|remark|commit|what|function|tests|words|line)\b", expression
            )
            assert not free or re.search(r"\| *(text|code)\b|map\(\"code\"\)", expression), (path.name, expression)


@pytest.mark.parametrize("text, said", [("a", "`a`"), ("a`b", "`` a`b ``"), ("``", "``` `` ```")])
def test_code_is_fenced_by_more_backticks_than_it_holds(text, said):
    assert markdown.code(text) == said
