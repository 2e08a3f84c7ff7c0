"""The page of faults: every row names a test that there is, and says something of its own."""

import ast

import pytest

from datafree import files
from datafree.book import faults
from datafree.errors import DataFreeError

ROWS = [row for rows in faults.faults().values() for row in rows]


@pytest.mark.parametrize("test", sorted({row.test for row in ROWS}))
def test_the_test_exists(test):
    file, _, name = test.partition("::")
    tree = ast.parse((files.ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name.startswith("test_") and name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


def test_there_are_forty_or_more_and_none_twice():
    assert len(ROWS) >= 40 and len({row.done for row in ROWS}) == len(ROWS)


def test_the_page_has_a_line_for_each():
    text = faults.page()
    assert text.count("\n| ") == len(ROWS) + len(faults.faults()) and f"{len(ROWS)} things" in text


def test_a_row_of_another_form_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "PLACE", tmp_path / "faults.yaml")
    faults.PLACE.write_text("A kind:\n  - [done, happens]\n")
    with pytest.raises(DataFreeError, match="a row is"):
        faults.faults()
