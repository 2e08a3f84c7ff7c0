"""Terms with previews: the first use of a term on a page shows its meaning, from glossary.yaml, without any script."""

import functools
import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.util.osutil import relative_uri

PLAIN = (nodes.reference, nodes.literal, nodes.math, nodes.title, nodes.raw, nodes.term, nodes.caption, nodes.strong, nodes.emphasis)
"""Text inside of these is left alone."""


@functools.cache
def terms(path, changed):
    """Term -> its entry; read again where the file has changed."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def known(app):
    path = Path(app.srcdir) / "glossary.yaml"
    return terms(str(path), path.stat().st_mtime_ns)


@functools.cache
def pattern(words):
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?![\w-])", re.I)


def anchor(term):
    return "term-" + re.sub(r"\W+", "-", term.lower())


class Terms(Directive):
    """The list of all terms."""

    def run(self):
        env = self.state.document.settings.env
        env.note_dependency(str(Path(env.srcdir) / "glossary.yaml"))
        items = nodes.definition_list()
        for term, entry in sorted(known(env.app).items(), key=lambda pair: pair[0].lower()):
            head = nodes.term("", term, ids=[anchor(term)])
            items += nodes.definition_list_item("", head, nodes.definition("", nodes.paragraph("", entry["text"])))
        return [items]


def with_previews(app, doctree, page):
    """Link the first use of each term in running text."""
    if app.builder.format != "html" or not page.startswith("notebooks/"):
        return
    forms = {form.lower(): term for term, entry in known(app).items() for form in (term, *entry.get("also", []))}
    seen = set()
    place = relative_uri(app.builder.get_target_uri(page), app.builder.get_target_uri("glossary"))
    for paragraph in list(doctree.findall(nodes.paragraph)):
        for text in list(paragraph.findall(nodes.Text)):
            if _in_the_way(text, paragraph):
                continue
            pieces = _linked(text.astext(), forms, seen, place, known(app))
            if len(pieces) > 1:
                text.parent.replace(text, pieces)


def _in_the_way(text, paragraph):
    node = text.parent
    while node is not paragraph:
        if isinstance(node, PLAIN):
            return True
        node = node.parent
    return isinstance(paragraph.parent, nodes.entry)


def _linked(text, forms, seen, place, entries):
    pieces, done = [], 0
    for match in pattern(tuple(forms)).finditer(text):
        term = forms[match[0].lower()]
        if term in seen:
            continue
        seen.add(term)
        meaning = nodes.raw("", f'<span class="meaning" role="tooltip">{_html(entries[term]["text"])}</span>', format="html")
        link = nodes.reference("", match[0], refuri=f"{place}#{anchor(term)}", classes=["term"], internal=True)
        pieces += [nodes.Text(text[done : match.start()]), nodes.inline("", "", link, meaning, classes=["preview"])]
        done = match.end()
    return [*pieces, nodes.Text(text[done:])]


def _html(text):
    return text.replace("&", "&amp;").replace("<", "&lt;")


def setup(app):
    app.add_directive("terms", Terms)
    app.connect("doctree-resolved", with_previews)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
