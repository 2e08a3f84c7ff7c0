"""The whole book in one page: in the order of the contents, links lead inside, and nothing of the screen stays."""

import re
import shutil

import pytest
from bs4 import BeautifulSoup

from datafree import DataFreeError, files
from datafree.book import doctor, pdf

HEAD = '<head><link rel="stylesheet" href="{up}_static/book.css"><script src="{up}_static/katex/katex.min.js"></script><script src="{up}_static/other.js"></script></head>'


def page(up, body):
    return f'<html>{HEAD.format(up=up)}<body><nav>menu</nav><article class="bd-article">{body}</article></body></html>'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "index.html").write_text(page("", '<h1 id="top">Front</h1><a href="notebooks/01_x.html#eq">to</a>'))
    inside = '<h1 id="eq">One<a class="headerlink" href="#eq">#</a></h1><img src="../_static/f.svg" loading="lazy">'
    inside += '<a href="../index.html">home</a><a href="#eq">here</a><a href="../records/r.json">file</a><a href="https://x.y/">out</a>'
    (tmp_path / "notebooks" / "01_x.html").write_text(page("../", inside))
    return tmp_path


@pytest.fixture
def soup(folder):
    return BeautifulSoup(pdf.joined(["index", "notebooks/01_x"], folder), "html.parser")


def test_pages_follow_each_other_without_what_belongs_to_the_screen(soup):
    assert [section["id"] for section in soup.select("section.printed-page")] == ["index", "notebooks-01_x"]
    assert not soup.find("nav") and not soup.select(".headerlink") and "menu" not in soup.get_text()


def test_links_between_pages_lead_inside_and_those_to_files_are_words(soup):
    assert soup.find("a", string="to")["href"] == "#notebooks-01_x--eq"
    assert soup.find("a", string="home")["href"] == "#index"
    assert soup.find("a", string="here")["href"] == "#notebooks-01_x--eq"
    assert soup.find("a", string="out")["href"] == "https://x.y/" and not soup.find("a", string="file")
    assert soup.find(id="notebooks-01_x--eq").name == "h1"


def test_files_are_found_from_the_root(soup):
    assert soup.img["src"] == "_static/f.svg" and not soup.img.get("loading")
    assert [tag["href"] for tag in soup.find_all("link")] == ["_static/book.css"]
    assert [tag["src"] for tag in soup.find_all("script")] == ["_static/katex/katex.min.js"]


def test_the_contents_are_those_of_the_sidebar():
    pages = pdf.contents()
    assert pages[0] == "index" and {f"notebooks/{p.stem}" for p in (files.ROOT / "notebooks").glob("*.ipynb")} < set(
        pages
    )


def test_a_page_that_is_not_rendered_is_named(folder):
    with pytest.raises(DataFreeError, match="no rendered page .*lost.html"):
        pdf.joined(["index", "lost"], folder)


def test_without_a_browser_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    with pytest.raises(DataFreeError, match="printed by a browser"):
        pdf.browser()


def test_a_small_book_is_printed(folder, tmp_path, monkeypatch):
    if not any(map(shutil.which, doctor.CHROMIUM)):
        pytest.skip("no chromium on this machine; install it to print a book.")
    monkeypatch.setattr(pdf, "HTML", folder)
    monkeypatch.setattr(pdf, "contents", lambda: ["index", "notebooks/01_x"])
    (folder / "_static").mkdir()
    shutil.copy(files.ROOT / "book" / "_static" / "book.css", folder / "_static")
    content = pdf.print_book(tmp_path / "book.pdf").read_bytes()
    assert content.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", content)) == 2
    assert not (folder / pdf.JOINED).exists()
