"""The whole book as one PDF: its pages joined in the order of the contents and printed by Chromium."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bs4 import BeautifulSoup, Tag

from .. import files
from ..errors import DataFreeError
from .build import HTML
from .doctor import CHROMIUM

BOOK = files.BUILD / "book.pdf"
JOINED = "whole-book.html"
SECONDS = 600
"""After which printing is given up."""

_LEFT_OUT = ".headerlink, .copybtn, .prev-next-footer, .prev-next-area, .ledger-controls, .meaning, script, button"


def contents() -> list[str]:
    """The pages in the order of the sidebar, the front page first."""
    toc = files.read_yaml(files.ROOT / "book" / "_toc.yml")
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def joined(pages: Sequence[str], folder: Path) -> str:
    """One page with the articles of all; their anchors bear the page's name, and links between pages lead inside."""
    sections = [
        f'<section class="printed-page" id="{_name(page)}">{_article(page, pages, folder)}</section>' for page in pages
    ]
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light" data-mode="light"><head>{_head(pages, folder)}</head>'
        f'<body class="whole-book"><main class="bd-content"><div class="bd-article">{"".join(sections)}</div></main></body></html>'
    )


def _soup(path: Path) -> BeautifulSoup:
    if not path.is_file():
        raise DataFreeError(f"there is no rendered page '{path}'; run 'make book' first.")
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _name(page: str) -> str:
    return page.replace("/", "-")


def _head(pages: Sequence[str], folder: Path) -> str:
    """Title, style sheets and the scripts that draw equations and fit tables, as a page at the root has them."""
    found: dict[str, str] = {
        "title": "<title>Data-free compression of trained CNNs</title>",
        "charset": '<meta charset="utf-8">',
    }
    for page in pages:
        for tag in _soup(folder / f"{page}.html").head.find_all(["link", "script"]):
            place = tag.get("href") if tag.name == "link" else tag.get("src", "")
            wanted = "stylesheet" in tag.get("rel", []) or any(
                k in (place or "") for k in ("katex", "mathematics", "book.js")
            )
            if wanted and place:
                address = _resolved(place, page)
                tag["href" if tag.name == "link" else "src"] = address
                found.setdefault(address, str(tag))
    return "".join(found.values())


def _resolved(address: str, page: str) -> str:
    """A relative address of a page, seen from the root of the book."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), address))


def _article(page: str, pages: Sequence[str], folder: Path) -> str:
    article = _soup(folder / f"{page}.html").select_one("article.bd-article")
    for tag in article.select(_LEFT_OUT):
        tag.decompose()
    for tag in article.find_all(id=True):
        tag["id"] = f"{_name(page)}--{tag['id']}"
    for tag in article.find_all("img"):
        tag["src"] = _resolved(tag["src"], page)
        del tag["loading"]
    for tag in article.find_all("a", href=True):
        _relink(tag, page, pages)
    return article.decode_contents()


def _relink(tag: Tag, page: str, pages: Sequence[str]) -> None:
    """Let a link lead to the place in this document, if it is in the book."""
    parts = urlsplit(tag["href"])
    if parts.scheme or parts.netloc:
        return
    target = re.sub(r"\.html$", "", _resolved(parts.path, page)) if parts.path else page
    if target in pages:
        tag["href"] = f"#{_name(target)}" + (f"--{parts.fragment}" if parts.fragment else "")
    else:  # a file beside the pages
        tag.unwrap()


def browser() -> str:
    """A Chromium of this machine; DataFreeError where there is none."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        raise DataFreeError(f"a PDF is printed by a browser, and none of {', '.join(CHROMIUM)} is here; install one.")
    return found


def print_book(target: Path = BOOK) -> Path:
    """Write the PDF of the rendered book.

    Raises:
        DataFreeError: no rendered book, no browser, or the browser failed.
    """
    program, page = browser(), HTML / JOINED
    page.write_text(joined(contents(), HTML), encoding="utf-8")
    try:
        files.write_atomically(target, lambda fresh: _print(program, page, fresh))
    finally:
        page.unlink()
    return target


def _print(program: str, page: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program, "--headless", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}",
            "--no-pdf-header-footer", "--virtual-time-budget=60000", f"--print-to-pdf={target}", page.as_uri(),
            *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        ]  # fmt: skip
        own = os.environ | {"XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
        try:
            done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise DataFreeError(f"the browser did not print the book in {SECONDS} seconds; try again.") from None
    if done.returncode or not target.stat().st_size:
        raise DataFreeError(f"the browser did not print the book ({(done.stderr or done.stdout).strip()[-200:]}).")
