"""Student copies: exercises without solutions, and the instructor's page with all of them."""

import json

from datafree.book import student
from datafree.evidence.notebook_text import notebooks

TEXT = "## Exercises\n\n```{exercise} First\n:label: one\nA?\n```\n\n```{solution} one\n:class: dropdown\nSECRET\n```\n\n```{exercise} Second\n:label: two\nB?\n```"


def cell(source, kind="markdown", *tags):
    return {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source}


def test_solutions_are_taken_out_and_nothing_else():
    cells = [cell(TEXT), cell("x = 1", "code"), cell("x = SECRET", "code", "solution")]
    kept = student.without_solutions({"cells": cells})["cells"]
    assert "SECRET" not in json.dumps(kept) and [c["source"] for c in kept[1:]] == ["x = 1"]
    assert kept[0]["source"].count("{exercise}") == 2 and "A?" in kept[0]["source"] and "B?" in kept[0]["source"]


def test_every_chapter_is_handed_out_without_solutions(tmp_path):
    written = student.hand_out(tmp_path)
    assert [path.name for path in written] == [path.name for path in notebooks()]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert "{solution}" not in text and "{exercise}" in text and json.loads(text)["cells"]


def test_every_exercise_has_its_solution_on_the_instructors_page():
    page = student.page()
    for path in notebooks():
        for one in student.exercises(path):
            assert one.solution, one.label
            assert f"{one.number} " in page and one.solution in page
