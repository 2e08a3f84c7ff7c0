"""The rendered book in a real browser, over http on this machine: mathematics, search, dark mode, a quiet console."""

import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from datafree import files
from datafree.book import doctor

HTML = files.BUILD / "html"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-allow-origins=*",
    "--remote-debugging-port=0",
]
PATIENCE = 60
"""Seconds after which a page that does not become what it should is a failure."""


class Browser:
    """A page of Chromium, driven over the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.ids, self.events = socket, itertools.count(1), []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters):
        number = next(self.ids)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def value(self, expression: str):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str):
        """The value of the expression as soon as it is true."""
        end = time.monotonic() + PATIENCE
        while not (value := self.value(expression)):
            assert time.monotonic() < end, f"never became true in {PATIENCE} s: {expression}"
            threading.Event().wait(0.05)
        return value

    def visit(self, url: str) -> None:
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.until(f"location.href.startsWith({url.split('#')[0]!r}) && document.readyState === 'complete'")

    def complaints(self) -> list[str]:
        """Errors on the console, exceptions, and requests that failed."""
        found = []
        for event in self.events:
            kind, said = event["method"], event["params"]
            if kind == "Log.entryAdded" and said["entry"]["level"] == "error":
                found.append(said["entry"]["text"] + " " + said["entry"].get("url", ""))
            elif kind == "Runtime.exceptionThrown":
                found.append(said["exceptionDetails"].get("text", "exception"))
            elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "assert"):
                found.append(str(said["args"]))
            elif kind == "Network.responseReceived" and said["response"]["status"] >= 400:
                found.append(f"{said['response']['status']} {said['response']['url']}")
        return found

    def requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    if not (HTML / "index.html").is_file():
        pytest.fail("there is no rendered book in _build/html; run 'make book' first.")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def port_of(profile: Path, process: subprocess.Popen) -> int:
    end = time.monotonic() + PATIENCE
    note = profile / "DevToolsActivePort"
    while not (note.is_file() and note.read_text().strip()):
        assert process.poll() is None, "chromium ended at once"
        assert time.monotonic() < end, "chromium opened no port"
        threading.Event().wait(0.05)
    return int(note.read_text().split()[0])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next((path for name in doctor.CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium on this machine; install it to run the browser tests.")
    websocket = pytest.importorskip("websocket")
    profile = tmp_path_factory.mktemp("chromium")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        env=os.environ | {"XDG_CONFIG_HOME": str(profile), "XDG_CACHE_HOME": str(profile)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port_of(profile, process)}/json") as answer:
            page = next(p for p in json.load(answer) if p["type"] == "page")
        socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=PATIENCE, suppress_origin=True)
        yield Browser(socket)
        socket.close()
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def all_pages() -> list[str]:
    found = (p.relative_to(HTML) for p in HTML.rglob("*.html"))
    return sorted(p.as_posix() for p in found if p.parts[0] not in ("_static", "slides"))


STILL = """document.head.appendChild(Object.assign(document.createElement('style'),
  {textContent: '*, ::before, ::after { transition: none !important }'})) && 1"""
SCROLLS = """[...document.querySelectorAll('.bd-article *')]
  .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 2 && !e.closest('.katex'))
  .filter(e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))
  .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40))"""
WIDE, NARROW = 1280, 390
"""Pixels of a screen on a desk and of one in a hand."""


def resize(browser, width: int) -> None:
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)


FOLLOWED = "new Promise(done => setTimeout(() => requestAnimationFrame(() => done(1)), 200))"
"""Tables follow the width of the window a little later."""


def scrolling(browser, width: int) -> list[str]:
    """What scrolls sideways or is cut at this width."""
    resize(browser, width)
    browser.value(FOLLOWED)
    beyond = browser.value("document.documentElement.scrollWidth") > width
    return (["the page"] if beyond else []) + browser.value(SCROLLS)


AXE = files.ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
FINDINGS = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.target.join(' ')).join(', ')))"""
LOOKS = list(itertools.product((WIDE, 900, NARROW), ("light", "dark")))
CLOSELY = ("index.html", "notebooks/00_start.html")
"""Pages that are looked at in every width and theme; the others have one each, in turn."""


def unreadable(browser, page: str, turn: int) -> dict[tuple[int, str], list[str]]:
    """Serious findings of axe-core on a page that is shown, in the looks that are its turn."""
    browser.value(AXE.read_text(encoding="utf-8") + ";" + STILL)  # colours change at once
    found = {}
    for width, theme in LOOKS if page in CLOSELY else [LOOKS[turn % len(LOOKS)]]:
        resize(browser, width)
        browser.value(f"document.documentElement.dataset.theme = {theme!r}; {FOLLOWED}")
        found[width, theme] = browser.value(FINDINGS)
    return {look: findings for look, findings in found.items() if findings}


@pytest.fixture(scope="module")
def seen(browser, site) -> dict[str, dict]:
    """Page -> what the tests below ask of it, from one visit with nothing in the cache."""
    found = {}
    browser.send("Network.setCacheDisabled", cacheDisabled=True)
    for turn, page in enumerate(all_pages()):
        resize(browser, WIDE)
        browser.visit(site + page)
        browser.value("document.fonts.ready.then(() => 1)")
        loaded = [e["params"] for e in browser.events if e["method"] == "Network.loadingFinished"]
        found[page] = {
            "complaints": browser.complaints(),
            "foreign": [url for url in browser.requests() if not url.startswith((site, "data:", "blob:"))],
            "wrong equations": browser.value("[...document.querySelectorAll('.katex-error')].map(e => e.title)"),
            "bytes": sum(entry["encodedDataLength"] for entry in loaded),
            **{width: scrolling(browser, width) for width in (WIDE, NARROW)},
            "unreadable": unreadable(browser, page, turn),
        }
    browser.send("Network.setCacheDisabled", cacheDisabled=False)
    browser.send("Emulation.clearDeviceMetricsOverride")
    return found


MOST = 1_500_000
"""Bytes that a page may weigh with all that it loads when it is opened."""


@pytest.mark.parametrize("what", ["complaints", "foreign", "wrong equations", WIDE, NARROW, "unreadable"])
def test_no_page_complains_asks_another_host_scrolls_or_is_hard_to_read(seen, what):
    assert {page: facts[what] for page, facts in seen.items() if facts[what]} == {}


def test_no_page_is_heavy(seen):
    assert all(facts["bytes"] for facts in seen.values())
    assert {page: facts["bytes"] for page, facts in seen.items() if facts["bytes"] > MOST} == {}


@pytest.mark.parametrize("page", ["notation.html", "notebooks/01_kw_synthesis.html"])
def test_equations_are_drawn_with_the_books_own_fonts(browser, site, page):
    browser.visit(site + page)
    drawn = browser.until("document.querySelectorAll('.math .katex').length")
    assert drawn >= browser.value("document.querySelectorAll('.math').length") > 0
    browser.until("[...document.fonts].some(f => f.family.startsWith('KaTeX') && f.status === 'loaded')")


def test_slides_are_shown_one_by_one_with_their_equations(browser, site):
    browser.visit(site + "slides/01_kw_synthesis.html")
    shown = "document.querySelector('.reveal .slides section.present section.present h2, .reveal .slides > section.present:not(.stack) h2').textContent"
    first = browser.until(f"document.querySelector('.reveal.ready') && {shown}")
    browser.value("Reveal.right()")
    browser.until(f"{shown} !== {first!r}")
    assert browser.value("document.querySelectorAll('.math .katex').length") > 0
    assert browser.complaints() == []


def test_search_finds_batchnorm(browser, site):
    browser.visit(site + "search.html?q=BatchNorm")
    browser.until("document.querySelectorAll('#search-results li a').length > 0")
    found = browser.value("[...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    assert any("notebooks/" in url for url in found)
    assert browser.complaints() == []


def test_search_finds_a_claim_by_its_name_and_opens_its_panel(browser, site):
    browser.visit(site + "search.html?q=kw-c19")
    browser.until("document.querySelectorAll('#search-results li a').length > 0")
    first = browser.value("document.querySelector('#search-results li a').href")
    assert first.startswith(site + "ledger.html")
    browser.visit(first)
    browser.until("document.querySelector('details[open]').textContent.includes('kw-c19')")


def test_search_says_so_when_there_is_nothing(browser, site):
    browser.visit(site + "search.html?q=xyzzyplugh")
    browser.until("/did not match|found 0|no results/i.test(document.querySelector('#search-results').innerText)")


LIGHTNESS = """(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
  return [light(parse(getComputedStyle(document.body).backgroundColor)), light(parse(getComputedStyle(document.body).color))];
})()"""


def test_dark_mode_is_dark_and_stays(browser, site):
    browser.visit(site + "index.html")
    button = "document.querySelector('button.theme-switch-button')"
    for theme in ("light", "dark"):
        browser.until(f"document.documentElement.dataset.theme === '{theme}' || ({button}.click(), false)")
        background, text = browser.value(LIGHTNESS)
        assert (background > text + 0.5) if theme == "light" else (text > background + 0.5)
    browser.visit(site + "notation.html")
    assert browser.value("document.documentElement.dataset.theme") == "dark"
    assert browser.complaints() == []


def look_at(browser, address: str, width: int, theme: str) -> None:
    resize(browser, width)
    browser.visit(address)
    browser.value(STILL)  # colours change at once
    browser.value(f"document.documentElement.dataset.theme = {theme!r}; document.fonts.ready.then(() => 1)")


@pytest.fixture
def own_size(browser):
    yield
    browser.send("Emulation.clearDeviceMetricsOverride")


UNREAD = """[...document.querySelectorAll('figure.drawn figcaption')].filter(c => !c.offsetHeight).length"""


@pytest.mark.usefixtures("own_size")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_shows_its_caption(browser, site, theme):
    page = site + "notebooks/09_frandi_recovery.html"
    look_at(browser, page, WIDE, theme)
    assert browser.value("document.querySelectorAll('figure.drawn').length") > 1 and browser.value(UNREAD) == 0


CHOOSE = """((name, value) => {
  const label = [...document.querySelectorAll('.ledger-controls label')].find(l => l.textContent.startsWith(name));
  const field = label.querySelector('select, input');
  field.value = value;
  field.dispatchEvent(new Event(field.tagName === 'SELECT' ? 'change' : 'input'));
})"""
SHOWN = "[...document.querySelectorAll('.ledger-table tbody tr')].filter(row => !row.hidden)"


def test_the_ledger_can_be_filtered_and_sorted(browser, site):
    browser.visit(site + "ledger.html")
    some = browser.until(f"document.querySelector('.ledger-controls') && {SHOWN}.length")
    browser.value("document.querySelector('.ledger-more').click()")
    everything = browser.value(f"{SHOWN}.length")
    assert everything == browser.value("document.querySelectorAll('.ledger-table tbody tr').length") > some
    browser.value(f"{CHOOSE}('state', 'identity')")
    identities = browser.value(f"{SHOWN}.length")
    assert 0 < identities < everything
    assert browser.value(f"{SHOWN}.every(row => row.dataset.state === 'identity')")
    assert (
        browser.value("document.querySelector('.ledger-controls output').textContent")
        == f"{identities} of {everything}"
    )
    browser.value(f"{CHOOSE}('state', '')")
    browser.value(f"{CHOOSE}('search', 'kw-c19')")
    assert browser.value(f"{SHOWN}.map(row => row.cells[0].textContent)") == ["kw-c19"]
    browser.value(f"{CHOOSE}('search', '')")
    browser.value("document.querySelectorAll('.ledger-table th button')[3].click()")
    counts = browser.value(f"{SHOWN}.map(row => Number(row.dataset.n))")
    assert len(counts) == everything and counts == sorted(counts)
    assert browser.complaints() == []


def test_a_permalink_opens_its_panel(browser, site):
    browser.visit(site + "ledger.html#ledger-kw-c19")
    browser.until("[...document.querySelectorAll('details[open]')].some(d => d.textContent.includes('kw-c19'))")
    assert browser.value("document.querySelectorAll('details[open]').length") == 2, "the panel and the fold around it"
