"""Mathematics: the numbers that the papers give their equations, and KaTeX from the book's own folder.

An equation with the label kw-eq-5-9 is numbered KW 5–9, as in its paper. Any other label is the book's own and counts
within its chapter: 9.2 is the second one of chapter 9.
"""

import re

from docutils import nodes
from sphinx.domains.math import MathDomain

PAPERS = {"kw": "KW", "lw": "LW", "ud": "UDFC", "fr": "FR"}
_OF_A_PAPER = re.compile(rf"({'|'.join(PAPERS)})-eq-([\d-]+)")


class Numbers(MathDomain):
    """Equations by their papers' numbers."""

    def note_equation(self, docname, labelid, location=None):
        super().note_equation(docname, labelid, location)  # warns of a label that is used twice
        self.equations[labelid] = (docname, self._number(docname, labelid))

    def _number(self, docname, labelid):
        if match := _OF_A_PAPER.fullmatch(labelid):
            return f"{PAPERS[match[1]]} {match[2].replace('-', '–')}"
        here = [label for label, (doc, _) in self.equations.items() if doc == docname]
        own = sum(not _OF_A_PAPER.fullmatch(label) for label in here)
        chapter = re.match(r"notebooks/0?(\d+)_", docname)
        return f"{chapter[1]}.{own}" if chapter else str(own)


def inline(writer, node):
    writer.body.append(writer.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    writer.body.append(writer.encode(node.astext()) + "</span>")
    raise nodes.SkipNode


def display(writer, node):
    """The equation, and beside it its number, which links to it."""
    writer.body.append(writer.starttag(node, "div", "", CLASS="math-block notranslate nohighlight"))
    writer.body.append(f'<div class="math">{writer.encode(latex(node))}</div>')
    if node["number"]:
        writer.body.append(f'<a class="eqno" href="#{node["ids"][0]}">[{node["number"]}]</a>')
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def latex(node):
    """One equation of several lines where the source has line breaks."""
    text = node.astext().strip()
    return rf"\begin{{split}}{text}\end{{split}}" if r"\\" in text and r"\begin" not in text else text


def katex(app, page, template, context, doctree):
    """KaTeX on the pages that have mathematics."""
    if app.env.get_domain("math").has_equations(page):
        app.add_js_file("katex/katex.min.js", defer="defer")
        app.add_js_file("mathematics.js", defer="defer")
        app.add_css_file("katex/katex.min.css")


def setup(app):
    app.add_domain(Numbers, override=True)
    app.add_html_math_renderer("katex", (inline, None), (display, None))
    app.connect("html-page-context", katex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
