"""The index of equations: what docstrings cite, and where it is tested and used."""

import ast
import importlib
import re
import textwrap

import pytest
from conftest import RECORDED, write_chapter

from datafree import files
from datafree.book import equations
from datafree.errors import DataFreeError
from datafree.evidence import claims


def _module(folder, text):
    path = folder / "module.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_citations_are_found_in_first_sentences(tmp_path):
    path = _module(
        tmp_path,
        '''
        def one(x):
            """The first
            thing (The Knowledge Within, eq. 1).

            Book: {ref}`kw-one`.
            """

        class Two:
            """Second (FRanDI, section 3.2)."""

            def three(self):
                """Third (UDFC, eqs. 2 and 3)"""

        def four():
            """Not one of ours (Another Paper, eq. 4)."""

        def five():
            """Says it late.

            More (UDFC, eq. 5).
            """
        ''',
    )
    found = equations.cited(path, "m")
    assert [(e.paper, e.place, e.function, e.label) for e in found] == [
        ("knowledge_within", "eq. 1", "m.one", "kw-one"),
        ("frandi", "section 3.2", "m.Two", ""),
        ("udfc", "eqs. 2 and 3", "m.Two.three", ""),
    ]
    assert found[0].what == "The first thing"


def test_broken_python_is_named(tmp_path):
    with pytest.raises(DataFreeError, match="module.py' is not valid Python"):
        equations.parse(_module(tmp_path, "def ("))


def users(function, tmp_path, text):
    """The tests in a file of this text that use the function."""
    (tmp_path / "test_x.py").write_text(textwrap.dedent(text))
    equations.tests.cache_clear()
    return [test.partition("::")[2] for test, code in equations.tests(tmp_path) if code.uses(function)]


def test_a_name_in_a_string_is_no_test_and_helpers_count(tmp_path):
    text = """
        from datafree.papers.udfc import repair as r
        from datafree.papers.udfc.repair import f

        @pytest.fixture
        def made():
            return r.f(1)

        def helper():
            return f(1)

        def test_a():
            r.f(1)

        def test_b():
            "f"

        class T:
            def test_c(self):
                f()

        def test_d():
            helper()

        def test_e(made):
            assert made
    """
    assert users("datafree.papers.udfc.repair.f", tmp_path, text) == ["test_a", "T::test_c", "test_d", "test_e"]


def test_a_function_of_the_same_name_in_another_module_is_another(tmp_path):
    text = """
        from datafree.papers.frandi import synthesis

        def test_a():
            synthesis.synthesize()
    """
    assert users("datafree.papers.frandi.synthesis.synthesize", tmp_path, text) == ["test_a"]
    assert users("datafree.papers.knowledge_within.synthesis.synthesize", tmp_path, text) == []


def test_a_method_counts_where_its_class_or_module_is_imported(tmp_path):
    text = """
        from datafree.core.a import Site

        def test_a(site):
            site.measure()
    """
    assert users("datafree.core.a.Site.measure", tmp_path, text) == ["test_a"]
    assert users("datafree.core.b.Other.measure", tmp_path, text) == []


def test_a_cell_is_found_with_the_target_before_it(places):
    write_chapter(
        places,
        "(first)=\n# One",
        ("code", "from datafree.core import b\n%matplotlib inline"),
        ("code", "from datafree.core import a"),
        "```{math}\n:label: second\nx\n```",
        ("code", "a.f(1)"),
        ("code", "a.g(1)"),
    )
    cells = equations.code_cells(places / "notebooks" / f"{RECORDED}.ipynb")
    (cell,) = [cell for cell, code in cells if code.uses("datafree.core.a.f")]
    assert cell == equations.Cell(RECORDED, "second", "eq")
    assert not any(code.uses("datafree.core.b.f") for _, code in cells)


def test_every_equation_is_the_function_that_it_names():
    """Each name can be imported: the room, the file and the function are found by it alone."""
    for equation in equations.equations():
        parts = equation.function.split(".")
        names = []
        while not (files.ROOT / "lib").joinpath(*parts).with_suffix(".py").is_file():
            names.insert(0, parts.pop())
        found = importlib.import_module(".".join(parts))
        for name in names:
            found = getattr(found, name)
        assert found.__doc__, equation.function


def test_library_equations_are_indexed():
    found = {e.function: e for e in equations.equations()}
    divergence = found["datafree.core.batchnorm.bns_divergence"]
    assert (divergence.paper, divergence.place, divergence.label) == ("knowledge_within", "eq. 1", "kw-bns")
    order = [e.paper for e in equations.equations()]
    assert order == sorted(order, key=list(equations.paper_names().values()).index)


def test_every_citation_of_an_equation_is_understood():
    """A docstring that begins to cite a paper's equation must be in the index: no misspelt name is dropped silently.

    Other papers are cited with their authors and year, and have no page of their own.
    """
    indexed = {e.function.rpartition(".")[2] for e in equations.equations()}
    library = files.ROOT / "lib" / "datafree"
    for path in sorted(library.rglob("*.py")):
        for name, node in equations.definitions(equations.parse(path)):
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            if re.search(r"\((?![^()]*et al\., \d{4})[^()]*, eqs?\. ?\d", first):
                assert name.rpartition(".")[2] in indexed, f"{path.name}: {name}"


def test_the_papers_of_the_claims_are_those_of_the_index():
    assert set(claims.papers()) == set(equations.paper_names().values())
