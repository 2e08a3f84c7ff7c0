"""What chapters show: the code of an equation, tables, and marks over a figure."""

import pytest
from bs4 import BeautifulSoup

from datafree.book import plots, show
from datafree.core.batchnorm import bns_divergence


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    found = []
    monkeypatch.setattr(show, "display", lambda content, **_: found.append(content))
    return found


ROWS = [
    {"net <x>": "a & b", "top-1": 91.234, "n": 3},
    {"net <x>": None, "top-1": [1.0, 2.0], "n": 0.0123},
    {"top-1": [4.0]},
]


def test_a_table_for_browsers(shown):
    show.table(ROWS, "Of <b> & {{ x }}")
    (table,) = BeautifulSoup(shown[0]["text/html"], "html.parser").find_all("table")
    assert table["class"] == ["table"] and table.caption.text == "Of <b> & {{ x }}"
    assert [(th.text, th["scope"]) for th in table.thead.find_all("th")] == [(h, "col") for h in ROWS[0]]
    cells = [[td.text for td in tr.find_all("td")] for tr in table.tbody.find_all("tr")]
    assert cells == [["a & b", "91.23", "3"], ["–", "1.50 ± 0.71", "0.012"], ["–", "4.00", "–"]]
    assert not table.tbody.find_all("th") and "<style" not in shown[0]["text/html"]


def test_a_table_as_text(shown):
    show.table(ROWS, "All")
    assert shown[0]["text/plain"] == "All\na & b | 91.23 | 3\n– | 1.50 ± 0.71 | 0.012\n– | 4.00 | –"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (0.0, "0.00"), (0.00123, "0.0012"), (-0.5, "-0.50"), (3, "3"), (True, "True"), ("x", "x")],
)
def test_values(value, said):
    assert show.cell(value) == said


def test_the_code_of_a_function_with_its_place(shown):
    show.source(bns_divergence)
    text = shown[0].data
    assert text.startswith("`lib/datafree/core/batchnorm.py`, line ") and "def bns_divergence(" in text


def test_printed_values_are_hollow_marks_and_none_is_left_out():
    figure = plots.bars({"panel": {"a": 1.0, "b": 2.0, "c": 3.0}}, ylabels=["points"])
    plots.printed(figure.axes[0], [1.5, None, 2.5], "paper, table 1")
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[0, 1.5], [2, 2.5]] and line.get_markerfacecolor() == "none"
    assert figure.axes[0].get_xlabel().endswith("paper, table 1")
