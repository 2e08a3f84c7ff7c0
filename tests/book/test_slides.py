"""Slides from a chapter's page: sections in columns, prose as notes, nothing that belongs to the page alone."""

import pytest
from bs4 import BeautifulSoup

from datafree.book import slides

ROWS = "<tr><td>1</td></tr>"
PAGE = f"""<title>T</title><article class="bd-article"><section id="top"><h1>1 · Title<a class="headerlink">#</a></h1>
<div class="chapter-result"><p>It is <span class="fact">7</span>.</p></div><p>Opening words.</p>
<section id="idea"><h2>Idea</h2><p>First sentence. Second <a href="x.html#y">one</a><span class="meaning">What one is.</span>.</p>
<div class="math-block"><div class="math">x</div></div>
<div class="cell"><figure class="drawn" id="f"><img class="only-light" src="a.svg" loading="lazy"><img class="only-dark" src="b.svg">
<figcaption>Figure 1. <a href="a.svg">SVG</a></figcaption></figure></div>
<div class="cell"><table>{ROWS * 3}</table><table>{ROWS * 20}</table></div></section>
<section id="summary"><h2>Summary</h2><ul><li>s</li></ul></section>
<section id="exercises"><h2>Exercises</h2><p>No.</p></section></section></article>"""


@pytest.fixture
def columns():
    return slides.slides(BeautifulSoup(PAGE, "html.parser"))


def test_sections_are_columns_and_the_exercises_stay_on_the_page(columns):
    assert [column[0].title for column in columns] == ["1 · Title", "Idea", "Summary"]
    assert "<li>s</li>" in columns[2][0].body


def test_a_section_opens_with_its_first_sentence_and_equations_and_keeps_its_prose_as_notes(columns):
    first = columns[1][0]
    assert "First sentence." in first.body and "Second" not in first.body and "math-block" in first.body
    assert first.notes == "First sentence. Second one."


def test_figures_and_short_tables_have_slides_of_their_own(columns):
    figure, table = columns[1][1:]
    assert "a.svg" in figure.body and "b.svg" not in figure.body and "SVG" not in figure.body
    assert 'id="f"' not in figure.body and "loading" not in figure.body
    assert table.body.count("<tr>") == 3


def test_slides_are_written_beside_the_pages(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_x.html").write_text(PAGE)
    (path,) = slides.write(tmp_path)
    soup = BeautifulSoup(path.read_text(), "html.parser")
    assert path == tmp_path / "slides" / "01_x.html" and len(soup.select(".slides > section")) == 4
    assert soup.select_one("aside.notes").get_text() == "Opening words."
