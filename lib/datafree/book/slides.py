"""Slides of a chapter, taken from its rendered page: a slide for each section, figure and table, with the prose as notes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bs4 import BeautifulSoup, Tag

from . import effects

ROWS = 9
"""Rows of a table that a slide can hold; longer tables stay on the page."""

_LEFT_OUT = ("exercises", "audit-this-chapter", "paper-against-here", "move-the-slider")


class Slide(NamedTuple):
    """What is on a slide, as HTML, and what is said to it."""

    title: str
    body: str
    notes: str = ""


def slides(soup: BeautifulSoup) -> list[list[Slide]]:
    """The slides of a chapter's page: a column for each section, its figures and tables below the first one."""
    article = soup.select_one("article.bd-article")
    for preview in article.select(".meaning"):
        preview.decompose()
    chapter = article.find("section")
    columns = [[_opening(chapter)]]
    for section in article.select("section > section"):
        if section.get("id") not in _LEFT_OUT and section.parent.get("id") not in _LEFT_OUT:
            columns.append(list(_of_section(section)))
    return columns


def _title(section: Tag) -> str:
    head = copy.copy(section.find(re.compile("^h[1-4]$")))
    for link in head.select(".headerlink"):
        link.decompose()
    return head.decode_contents().strip()


def _opening(chapter: Tag) -> Slide:
    parts = chapter.select(":scope > .chapter-result, :scope > .chapter-goals")
    opening = " ".join(p.get_text() for p in chapter.find_all("p", recursive=False))
    return Slide(_title(chapter), "".join(_clean(part) for part in parts), opening)


def _of_section(section: Tag) -> Iterator[Slide]:
    title = _title(section)
    prose = section.find_all("p", recursive=False)
    lists = section.find_all("ul", recursive=False) if section.get("id") == "summary" else []
    equations = section.find_all("div", class_="math-block", recursive=False)[:2]
    first = _first_sentence(prose[0]) if prose and not lists else ""
    notes = " ".join(" ".join(p.get_text().split()) for p in prose)
    yield Slide(title, first + "".join(_clean(part) for part in [*equations, *lists]), notes)
    for shown in section.select(":scope > div.cell figure.drawn, :scope > div.cell table"):
        if shown.name == "figure" or len(shown.find_all("tr")) <= ROWS:
            yield Slide(title, _clean(shown))


def _first_sentence(paragraph: Tag) -> str:
    """As HTML; the whole paragraph where a sentence ends inside of a formula or a link."""
    html = _clean(paragraph)
    match = re.match(r"<p>(.*?[.?!:])(?=\s+[A-Z]|</p>)", html, re.S)
    whole = match and match[1].count("<") == 2 * match[1].count("</")
    return f"<p>{match[1]}</p>" if whole else html


def _clean(part: Tag) -> str:
    """The part without previews and anchors; its ids belong to the page."""
    part = copy.copy(part)
    for tag in part.select(".headerlink, figcaption a, img.only-dark"):
        tag.decompose()
    for tag in part.find_all("a"):
        tag.unwrap()
    for tag in [part, *part.find_all(True)]:
        for name in ("id", "loading", "height"):
            tag.attrs.pop(name, None)
    return str(part)


def write(pages: Path) -> list[Path]:
    """Slides for every chapter of a rendered book, in the folder slides/ beside its pages."""
    written = []
    for page in sorted((pages / "notebooks").glob("*.html")):
        soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        columns = slides(soup)
        text = effects.template("slides.html.j2").render(columns=columns, name=page.stem, title=soup.title.get_text())
        target = pages / "slides" / page.name
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written
