"""Light pages that need no other host: scripts of unused features are dropped, and of the icons only those in use stay."""

import re
from pathlib import Path

import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont

UNUSED = ("sphinx-thebe", "togglebutton", "design-tabs", "THEBE_JS_URL", "toggleHint")
"""Live code, toggles and tabs by script: the book has none (its folds are plain HTML)."""

STYLES = "styles/pydata-sphinx-theme.css"
_GLYPH = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
_FONT = re.compile(r"src:url\(\.\./vendor/fontawesome/webfonts/([\w-]+)\.woff2\)[^;}]*")


def _is_unused(asset):
    words = str(getattr(asset, "filename", asset)) + str((getattr(asset, "attributes", {}) or {}).get("body"))
    return any(name in words for name in UNUSED)


def without_unused(app, page, template, context, doctree):
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if not _is_unused(asset)]


def only_used_icons(app, exception):
    """The icon fonts and their style sheet, cut down to the icons on the pages."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    places = [*out.rglob("*.html"), *out.glob("_static/scripts/*theme.js")]
    used = {name for place in places for name in re.findall(r"fa-[\w-]+", place.read_text(encoding="utf-8"))}
    sheet = out / "_static" / STYLES
    codes = set()

    def kept(match):
        names = [name for name in match[1].split(",") if name[1:].removesuffix(":before") in used]
        codes.update({int(match[2], 16)} if names else ())
        return f'{",".join(names)}{{content:"\\{match[2]}"}}' if names else ""

    text = _GLYPH.sub(kept, sheet.read_text(encoding="utf-8"))
    sheet.write_text(_FONT.sub(r'src:url(../\1.ttf) format("truetype")', text), encoding="utf-8")
    vendor = out / "_static" / "vendor" / "fontawesome"
    for font in sorted(vendor.glob("webfonts/*.ttf")):
        _cut(font, out / "_static" / font.name, codes)


REWRITTEN = (
    # labels that say something else than the words inside of the button do
    (re.compile(r'aria-label="Toggle hidden content"'), ""),
    (re.compile(r'aria-label="Search" (?=data-bs-placement)'), ""),
    # weight without use: a drawing of an arrow in every fold, and a span around each word of inline code
    (re.compile(r'<span class="sd-summary-state-marker.*?</span>', re.S), ""),
    (re.compile(r'<span class="pre">([^<]*)</span>'), r"\1"),
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),  # its entries are no list items
)


def rewrite(app, exception):
    for place in [] if exception else Path(app.outdir).rglob("*.html"):
        text = place.read_text(encoding="utf-8")
        for pattern, replacement in REWRITTEN:
            text = pattern.sub(replacement, text)
        place.write_text(text, encoding="utf-8")


_CLASS = re.compile(r"\.((?:[\w-]|\\.)+)")


def only_used_styles(app, exception):
    """The theme's style sheets without rules for classes that no page and no script names."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    places = [*out.rglob("*.html"), *out.rglob("*.js")]
    words = {word for place in places for word in re.findall(r"[\w-]+", place.read_text(encoding="utf-8"))}
    for name in (STYLES, "sphinx-design.min.css"):
        sheet = out / "_static" / name
        rules = tinycss2.parse_stylesheet(sheet.read_text(encoding="utf-8"), skip_comments=True, skip_whitespace=True)
        sheet.write_text("".join(_used(rules, words)), encoding="utf-8")


def _used(rules, words):
    for rule in rules:
        if rule.type == "qualified-rule":
            text = tinycss2.serialize(rule.prelude)
            if "(" not in text:  # commas inside of :is(...) are left alone
                text = ",".join(selector for selector in text.split(",") if _names_known(selector, words))
            if text:
                yield f"{text}{{{tinycss2.serialize(rule.content)}}}"
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inside = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            if text := "".join(_used(inside, words)):
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{text}}}"
        else:
            yield rule.serialize()


def _names_known(selector, words):
    return all(name.replace("\\", "") in words or "\\" in name for name in _CLASS.findall(selector))


def _cut(font, target, codes):
    """The font with the glyphs of these code points alone."""
    options = subset.Options(recalc_timestamp=False, layout_features=[], notdef_outline=False)
    cutter = subset.Subsetter(options)
    with TTFont(font) as face:
        cutter.populate(unicodes=codes)
        cutter.subset(face)
        face.save(target)


def setup(app):
    app.connect("html-page-context", without_unused, priority=900)
    app.connect("build-finished", only_used_icons)
    app.connect("build-finished", rewrite)
    app.connect("build-finished", only_used_styles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
