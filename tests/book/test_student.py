"""Student copies: exercises without solutions, and the instructor's page with all of them."""

import json

import nbformat

from datafree.book import student
from datafree.evidence.notebook_text import notebooks

TEXT = "## Exercises\n\n```{exercise} First\n:label: one\nA?\n```\n\n```{solution} one\n:class: dropdown\nSECRET\n```\n\n```{exercise} Second\n:label: two\nB?\n```"


def cell(source, kind="markdown", *tags):
    return {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source}


def test_solutions_are_taken_out_and_nothing_else():
    kept = student.copied({"cells": [cell(TEXT), cell("x = 1", "code")]})["cells"]
    assert "SECRET" not in json.dumps(kept) and [c["source"] for c in kept[1:]] == ["x = 1"]
    assert kept[0]["source"].count("{exercise}") == 2 and "A?" in kept[0]["source"] and "B?" in kept[0]["source"]


def test_every_chapter_is_handed_out_without_solutions(tmp_path):
    written = student.hand_out(tmp_path)
    assert [path.name for path in written] == [path.name for path in notebooks()]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert "{solution}" not in text and "{exercise}" in text
        assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text
        assert "{fact}" not in text
        nbformat.validate(nbformat.read(path, as_version=4))


def test_who_teaches_gets_what_nbgrader_makes_the_student_copy_from(tmp_path):
    for path in student.hand_out(tmp_path, solved=True):
        cells = nbformat.read(path, as_version=4).cells
        marked = [c for c in cells if "nbgrader" in c.metadata]
        assert len(marked) >= 2 and any("{solution}" in c.source for c in cells)
        assert [c.metadata.nbgrader.grade for c in marked] == [False, True] * (len(marked) // 2)
        assert all("BEGIN SOLUTION" in c.source for c in marked[::2])
        assert all("BEGIN HIDDEN TESTS" in c.source and c.metadata.nbgrader.points for c in marked[1::2])


def test_the_cells_to_write_in_stand_behind_their_exercise(tmp_path):
    student.hand_out(tmp_path)
    cells = nbformat.read(tmp_path / "05_lw_equalization.ipynb", as_version=4).cells
    place = next(k for k, c in enumerate(cells) if c.metadata.get("nbgrader"))
    assert cells[place - 1].source.rstrip().endswith("```") and ":label: lw-code-equalize" in cells[place - 1].source
    assert "def equalized(" in cells[place].source and "NotImplementedError" in cells[place].source


def test_every_exercise_has_its_solution_on_the_instructors_page():
    page = student.page()
    for path in notebooks():
        for one in student.exercises(path):
            assert one.solution, one.label
            assert f"{one.number} " in page and one.solution in page
