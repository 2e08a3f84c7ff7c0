"""What the extension of light pages takes away, and what it leaves."""

import sys
import types

import pytest

from datafree import files

sys.path.insert(0, str(files.ROOT / "book" / "_ext"))
import light

SHEET = """.a{x:1}.b,.a .c{x:2}.a,.b{x:3}@media print{.b{x:4}.a{x:5}}:is(.b, .d){x:6}@font-face{src:url(x)}html{x:7}"""


@pytest.fixture
def app(tmp_path):
    (tmp_path / "_static" / "styles").mkdir(parents=True)
    for name in (light.STYLES, "sphinx-design.min.css"):
        (tmp_path / "_static" / name).write_text(SHEET)
    (tmp_path / "_static" / "x.js").write_text("element.classList.add('c')")
    page = '<p class="a"><code><span class="pre">x</span> <span class="pre">y</span></code>'
    page += '<summary aria-label="Toggle hidden content">z<span class="sd-summary-state-marker m"><svg></svg></span></summary>'
    (tmp_path / "p.html").write_text(page)
    return types.SimpleNamespace(outdir=str(tmp_path), builder=types.SimpleNamespace(format="html"))


def test_only_rules_of_known_classes_stay(app, tmp_path):
    light.only_used_styles(app, None)
    text = (tmp_path / "_static" / light.STYLES).read_text().replace(" ", "")
    assert text == ".a{x:1}.a.c{x:2}.a{x:3}@mediaprint{.a{x:5}}:is(.b,.d){x:6}@font-face{src:url(x)}html{x:7}"


def test_pages_lose_weight_and_misleading_labels_but_no_word(app, tmp_path):
    light.rewrite(app, None)
    assert (tmp_path / "p.html").read_text() == '<p class="a"><code>x y</code><summary >z</summary>'


def test_scripts_of_unused_features_are_dropped():
    context = {"script_files": ["a/togglebutton.js", "a/copybutton.js"], "css_files": ["sphinx-thebe.css", "book.css"]}
    light.without_unused(None, "p", "t", context, None)
    assert context == {"script_files": ["a/copybutton.js"], "css_files": ["book.css"]}
