"""From an executed notebook to a page: what is shown, folded, numbered and filled in."""

import ast
import json

import pytest

from datafree import DataFreeError, files
from datafree.book import chapter_text, facts, library_source, markdown, parameters, staging
from datafree.evidence.record import read_all


def code(source, *tags, outputs=()):
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": list(outputs)}


def text(source):
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def staged(*cells):
    return staging.staged({"metadata": {}, "cells": list(cells)})["cells"]


def fold(cell):
    return cell["metadata"].get("mystnb", {}).get("code_prompt_show", "") if "metadata" in cell else ""


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (code("seed = 0", "parameters"), "Change me"),
        (code('import torch\n\nchapter = chapters.begin("x", globals())'), "Set-up"),
        (code("import torch\nfrom datafree.core import graph"), "Set-up"),
        (code('chapter.metric("a", {\n    "b": 1,\n})\nchapter.metric("c", 2)'), "Kept"),
        (code("figure = curves(1)\nplots.show(figure, 'a')"), "Code of the figure"),
        (code("rows = [{'a': 1}]\nshow.table(rows, 'a')"), "Code of the table"),
    ],
)
def test_bookkeeping_and_drawing_are_folded(cell, words):
    (page,) = staged(cell)
    assert "hide-input" in page["metadata"]["tags"] and words in fold(page)


@pytest.mark.parametrize("source", ['x = f()\nchapter.metric("x", x)', "y = 1"])
def test_what_is_shown_stays_open(source):
    assert staged(code(source)) == [code(source)]


def test_what_computes_with_the_library_stays_open_though_it_draws():
    imported = code("from datafree.core import graph\nfrom datafree.book import plots")
    *_, page = staged(imported, code("plots.show(draw(graph.trace(net)), 'a')"))
    assert fold(page) == ""


def test_the_first_line_of_a_docstring_keeps_its_words_apart_and_its_formulas():
    line = r"Number of `a_b` for *x*: :math:`\exp(-p_k)`, at c_d."
    assert markdown.prose(line) == r"Number of `a_b` for \*x\*: {math}`\exp(-p_k)`, at c\_d."


def test_what_a_last_call_returns_is_no_part_of_the_story():
    returned = {"output_type": "execute_result", "data": {"text/plain": "[None]"}}
    table = {"output_type": "execute_result", "data": {"text/plain": "t", "text/html": "<table></table>"}}
    printed = {"output_type": "stream", "text": "words"}
    (page,) = staged(code("axis.set(x=f())", outputs=[returned, table, printed]))
    assert page["outputs"] == [table, printed]


def test_a_check_is_folded_whatever_it_uses():
    imported = code("from datafree.core import graph")
    *_, page = staged(imported, text("### Check: is it so?"), code("graph.trace(net)"))
    assert "check" in fold(page)


def test_the_end_of_the_run_is_no_part_of_the_page():
    printed = {"output_type": "stream", "name": "stdout", "text": "x: record written."}
    assert staged(code("chapter.finish()", outputs=[printed])) == []
    (begun,) = staged(code('chapter = chapters.begin("x", globals())', outputs=[printed]))
    assert begun["outputs"] == []


def test_set_up_in_two_cells_is_one_fold():
    (page,) = staged(code("import torch"), code('chapter = chapters.begin("x", globals())'))
    assert page["source"] == 'import torch\n\nchapter = chapters.begin("x", globals())'


SHOWN = {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": "old"}}


def test_code_of_the_library_is_drawn_from_the_library_without_its_docstring():
    imported = code("from datafree.core import batchnorm")
    _, box = staged(imported, code("show.source(batchnorm.bns_divergence)", outputs=[SHOWN]))
    assert box["cell_type"] == "markdown"
    assert "def bns_divergence(" in box["source"] and "The Knowledge Within, eq. 1" in box["source"]
    assert "math::" not in box["source"] and '"""' not in box["source"] and "old" not in box["source"]


def test_code_beside_a_call_that_shows_the_library_stays_with_its_outputs():
    imported = code("from datafree.core import batchnorm")
    printed = {"output_type": "stream", "name": "stdout", "text": "1"}
    cell = code("show.source(\n    batchnorm.fold,\n)\nprint(1)", outputs=[SHOWN, printed])
    _, box, rest = staged(imported, cell)
    assert "def fold(" in box["source"]
    assert (rest["source"], rest["outputs"]) == ("print(1)", [printed])


def test_a_name_that_is_not_in_the_library_is_refused():
    imported = code("from datafree.core import batchnorm")
    with pytest.raises(DataFreeError, match="no function or class 'datafree.core.batchnorm.missing'"):
        staged(imported, code("show.source(batchnorm.missing)"))
    with pytest.raises(DataFreeError, match="imports no 'batchnorm'"):
        staged(code("show.source(batchnorm.fold)"))


def test_a_name_is_followed_to_where_it_is_defined():
    found = library_source.find("datafree.api.Result")
    assert "class Result" in found.code and found.path.startswith("lib/datafree/")


def test_docstrings_say_what_the_arguments_are():
    found = library_source.find("datafree.core.batchnorm.bns_divergence")
    assert found.arguments[0].startswith("mu_hat, var_hat: [C]") and found.arguments[-1].startswith("returns: [C]")
    assert "ref" not in "".join(found.arguments)


def test_wide_code_is_broken_where_a_formatter_would_and_the_rest_is_left():
    wide = f"x = f({', '.join(f'argument_{k}={k}' for k in range(9))})"
    narrow = "y = {'a':1}  # kept as it is written"
    (page,) = staged(code(f"{narrow}\n{wide}\n# the end"))
    lines = page["source"].splitlines()
    assert lines[0] == narrow and lines[-1] == "# the end"
    assert max(map(len, lines)) <= staging.COLUMNS < len(wide)


def test_a_comment_that_makes_a_line_wide_goes_above_it():
    line = f"    x = f(1)  # {'long ' * 18}".rstrip()
    assert staging.formatted(f"def g():\n{line}") == f"def g():\n    # {'long ' * 18}".rstrip() + "\n    x = f(1)"


TASKS = "```{exercise} First\n:label: one\nA $x$?\n```\n\n```{solution} one\n:class: dropdown\nYes.\n```\n\n```{exercise} Second\n:label: two\nB?\n```\n"


def test_exercises_are_numbered_by_chapter_and_say_how_hard_they_are():
    (cell,) = staging.with_exercises([text(TASKS)], 7, {"one": 1, "two": 3}.get)
    assert cell["source"].index("(one)=") < cell["source"].index("Exercise 7.1. First") < cell["source"].index("A $x$?")
    assert "Solution of 7.1\n" in cell["source"] and "Exercise 7.2. Second" in cell["source"]
    assert "●○○" in cell["source"] and "●●●" in cell["source"] and ":label:" not in cell["source"]


def test_numbers_that_cite_an_equation_leave_it_to_its_tag():
    assert staging.without_cited_numbers(text("x\n\\quad\\text{(eqs. 2, 3)}"))["source"] == "x"


def test_the_head_keeps_targets_title_opening_and_sections():
    first = text(
        "(here)=\n# A title\n\n**What this chapter shows.** It opens.\n\n**Run time** long. **Paper sections** 3.1, table 2."
    )
    content = {
        "number": 4,
        "hero": "<figure></figure>",
        "result": "",
        "goals": ["do it"],
        "needs": [],
        "cost": "9 seconds",
        "command": "datafree run x",
        "diagram": "",
        "notebook": "x",
    }
    head, rest = staging.with_head([first, text("rest")], **content)
    assert head["source"].startswith("(here)=\n# 4 · A title\n")
    assert "It opens." in head["source"] and "**Of the paper** 3.1, table 2\n" in head["source"]
    assert head["source"].index("<figure>") < head["source"].index("chapter-strip")
    assert "Run time" not in head["source"] and rest == text("rest")
    with pytest.raises(DataFreeError, match="begins with its title"):
        staging.with_head([text("no title")], **content)


def test_something_goes_in_before_the_sections_that_close_a_chapter():
    cells = [text("# T"), text("Words.\n\n## Summary\n\n- s"), code("x")]
    sources = [cell["source"] for cell in staging.before_closing(cells, "NEW")]
    assert sources == ["# T", "Words.", "NEW", "## Summary\n\n- s", "x"]
    assert [cell["source"] for cell in staging.before_closing(cells[:1], "NEW")] == ["# T", "NEW"]


RECORDS = [
    {"notebook": "x", "profile": "book", "seed": k, "metrics": {"a": {"b": [k, k + 1.0]}, "t": [{"bits": 4, "v": 7}]}}
    for k in range(3)
] + [{"notebook": "x", "profile": "reduced", "seed": 0, "metrics": {"a": {"b": 9.0}, "only": 2}}]


def test_a_fact_is_the_mean_at_the_scale_that_has_three_seeds():
    assert facts.fact(RECORDS, "x", "a/b") == facts.Fact(1.5, "book", 3)
    assert facts.fact(RECORDS, "x", "only") == facts.Fact(2.0, "reduced", 1)
    assert facts.fact(RECORDS, "x", "t/bits=4/v").value == 7 and facts.fact(RECORDS, "x", "t/bits=5/v") is None


def test_facts_in_prose_become_numbers_and_a_missing_one_is_refused():
    line = facts.filled("it is {fact}`a/b; .2f` and {fact}`only @x; .0f`.", RECORDS, "x")
    assert ">1.50</span>" in line and ">2</span>." in line and "mean of 3 runs at the scale 'book'" in line
    with pytest.raises(DataFreeError, match="no record of x has a number at 'a/c'"):
        facts.filled("{fact}`a/c`", RECORDS, "x")


def test_a_fact_leads_to_the_records_of_its_chapter():
    here = facts.filled("{fact}`a/b`", RECORDS, "x", folder="")
    assert here.startswith("<a ") and 'href="#audit-this-chapter">1.5</a>' in here
    assert 'href="x.html#audit-this-chapter"' in facts.filled("{fact}`a/b @x`", RECORDS, "y", folder="")
    assert 'href="notebooks/x.html#audit-this-chapter"' in facts.filled(
        "{fact}`a/b`", RECORDS, "x", folder="notebooks/"
    )


def test_a_fact_is_of_the_run_on_the_page_or_of_the_scale_of_a_recorded_table():
    run = {"notebook": "x", "profile": "smoke", "seed": 0, "metrics": {"a": {"b": 4.0}}}
    line = facts.filled("{fact}`a/b @run`, {fact}`a/b @table`, {fact}`a/b`", RECORDS, "x", run)
    assert ">4.0</span>, " in line and ">9.0</span>, " in line and line.endswith(">1.5</span>")
    assert ">2.0</span>" in facts.filled("{fact}`only @run`", RECORDS, "x", run)
    with pytest.raises(DataFreeError, match="no record of x has a number at 'a/c'"):
        facts.filled("{fact}`a/c @run`", RECORDS, "x", run)


def exercises_of(notebook):
    path = files.ROOT / "notebooks" / f"{notebook}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    labels = []
    staging.with_exercises(
        [c for c in cells if c["cell_type"] == "markdown"], 0, lambda label: labels.append(label) or 1
    )
    return labels


@pytest.mark.parametrize("notebook", parameters.NOTEBOOKS)
def test_every_chapter_has_its_text(notebook):
    known = chapter_text.chapter_text(notebook)
    assert set(known.levels) == set(exercises_of(notebook)) != set()
    assert len(known.goals) == 3 and set(known.needs) < set(parameters.NOTEBOOKS)


def test_every_result_has_its_numbers_on_record():
    found = read_all()
    for notebook, known in chapter_text.chapter_texts().items():
        assert "{fact}" not in facts.filled(known.result, found, notebook)


@pytest.mark.parametrize("name", list(parameters.NOTEBOOKS))
def test_the_head_shows_a_figure_of_the_chapter(name):
    notebook = json.loads((files.ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    code = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    start = chapter_text.chapter_text(name).hero
    assert any(isinstance(text, str) and text.startswith(start) for text in texts)
