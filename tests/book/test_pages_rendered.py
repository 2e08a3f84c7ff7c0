"""The rendered book: complete, independent of other hosts, accessible, and without a dead link."""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from datafree import files
from datafree.evidence import ledger

HTML = files.BUILD / "html"
LOADING_RELS = {"stylesheet", "preload", "modulepreload", "icon", "shortcut", "preconnect", "dns-prefetch", "prefetch"}
EMBEDDING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
CSS_LOAD = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


@pytest.fixture(scope="module")
def pages() -> dict[Path, BeautifulSoup]:
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no rendered book in _build/html; run 'make book' first.")
    return {p: BeautifulSoup(p.read_text(), "html.parser") for p in HTML.rglob("*.html") if "_static" not in p.parts}


def is_foreign(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme in ("http", "https", "ftp")


def css_loads(text: str) -> list[str]:
    return [a or b for a, b in CSS_LOAD.findall(text) if not (a or b).startswith("data:")]


def loads(soup: BeautifulSoup) -> list[str]:
    """Every address that a browser fetches by itself when it shows the page."""
    found = [
        tag[attribute] for name, attribute in EMBEDDING.items() for tag in soup.find_all(name, **{attribute: True})
    ]
    found += [tag["href"] for tag in soup.find_all("link", href=True) if LOADING_RELS & set(tag.get("rel", []))]
    found += [part.split()[0] for tag in soup.find_all(srcset=True) for part in tag["srcset"].split(",")]
    for tag in soup.find_all(style=True):
        found += css_loads(tag["style"])
    for tag in soup.find_all("style"):
        found += css_loads(tag.get_text())
    return [address for address in found if not address.startswith("data:")]


def test_the_detector_sees_what_it_must():
    bad = "<script src='//cdn.x/a.js'></script><p style='background:url(https://x/y.png)'></p><link rel=icon href='http://x/i'>"
    assert sum(map(is_foreign, loads(BeautifulSoup(bad, "html.parser")))) == 3
    assert css_loads("@import 'https://x/f.css'; a{b:url(data:xx)}") == ["https://x/f.css"]


def test_every_chapter_is_there(pages):
    contents = re.findall(r"(?:root|file): *(\S+)", (files.ROOT / "book" / "_toc.yml").read_text())
    assert len(contents) > 5
    assert [name for name in contents if not (HTML / f"{name}.html").is_file()] == []


def test_no_page_loads_from_another_host(pages):
    foreign = [(p.name, address) for p, soup in pages.items() for address in loads(soup) if is_foreign(address)]
    sheets = {p: css_loads(p.read_text(errors="replace")) for p in HTML.rglob("*.css")}
    foreign += [(p.name, address) for p, addresses in sheets.items() for address in addresses if is_foreign(address)]
    assert foreign == []


def test_no_inline_script_names_a_content_network(pages):
    network = re.compile(r"https?://[\w.]*(unpkg|jsdelivr|cdnjs|cloudflare|googleapis|gstatic|plot\.ly)")
    found = [
        (p.name, m[0])
        for p, soup in pages.items()
        for s in soup.find_all("script")
        if (m := network.search(s.get_text()))
    ]
    assert found == []


def test_everything_a_page_loads_is_there(pages):
    missing = []
    for page, soup in pages.items():
        for address in loads(soup):
            target = page.parent / unquote(urlsplit(address).path)
            if not is_foreign(address) and not target.is_file():
                missing.append((page.name, address))
    assert missing == []


def test_every_image_says_what_it_shows(pages):
    silent = []
    for page, soup in pages.items():
        for image in soup.find_all("img"):
            words = image.get("alt", "").strip()
            if not words or re.search(r"\.(png|svg|jpe?g|gif)$", words):
                silent.append((page.name, image.get("src", "")[:60]))
    assert silent == []


def anchors(soup: BeautifulSoup) -> set[str]:
    return {tag["id"] for tag in soup.find_all(id=True)} | {
        tag["name"] for tag in soup.find_all("a", attrs={"name": True})
    }


def dead_links(page: Path, soup: BeautifulSoup, known: dict[Path, set[str]]) -> list[str]:
    """Links of a page that lead nowhere; `known`: the anchors of each page."""
    dead = []
    for link in soup.find_all("a", href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or (parts.fragment and target in known and unquote(parts.fragment) not in known[target]):
            dead.append(link["href"])
    return dead


def test_every_internal_link_and_anchor_resolves(pages):
    pages = {page.resolve(): soup for page, soup in pages.items()}
    known = {page: anchors(soup) for page, soup in pages.items()}
    found = {page.name: dead for page, soup in pages.items() if (dead := dead_links(page, soup, known))}
    assert found == {}


def test_launch_buttons_open_the_chapter_itself(pages):
    chapters = sorted((HTML / "notebooks").glob("*.html"))
    assert [p.stem for p in chapters] == sorted(p.stem for p in (files.ROOT / "notebooks").glob("*.ipynb"))
    for page in chapters:
        links = [tag["href"] for tag in pages[page].find_all("a", href=True)]
        place = f"notebooks/{page.stem}.ipynb"
        assert f"https://mybinder.org/v2/gh/datafree-book/datafree/main?urlpath=lab/tree/{place}" in links
        assert f"https://colab.research.google.com/github/datafree-book/datafree/blob/main/{place}" in links
        assert (files.ROOT / place).is_file()


def test_no_page_names_a_place_on_this_machine(pages):
    assert [p.name for p, soup in pages.items() if str(files.ROOT) + "/" in str(soup)] == []


def test_no_chapter_shows_an_error_or_a_warning(pages):
    trouble = re.compile(r"Traceback \(most recent call last\)|\w+Warning:")
    assert [p.name for p, soup in pages.items() if trouble.search(soup.get_text())] == []


def test_the_ledger_is_written_beside_the_book():
    claims = json.loads((files.BUILD / "ledger.json").read_text())["claims"]
    assert len({claim["id"] for claim in claims}) == len(claims) > 100
    assert {claim["state"] for claim in claims} <= set(ledger.STATES)


def test_the_ledgers_page_has_a_row_and_a_panel_for_each_claim(pages):
    content = json.loads((files.BUILD / "ledger.json").read_text())
    known = [row["id"] for row in content["claims"] + content["ours"]]
    soup = pages[HTML / "ledger.html"]
    assert [row.td.get_text() for row in soup.select("table.ledger-table tbody tr")] == known
    assert [name for name in known if not soup.find(id=f"ledger-{name}")] == []
