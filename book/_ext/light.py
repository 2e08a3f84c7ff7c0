"""Light pages that need no other host: scripts of unused features are dropped, and of the icons only those in use stay."""

import re
from pathlib import Path

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


MISLEADING = ('aria-label="Toggle hidden content"', 'aria-label="Search" data-bs-placement')
"""Labels that say something else than the words inside of the button do."""


def without_misleading_labels(app, exception):
    for place in [] if exception else Path(app.outdir).rglob("*.html"):
        text = place.read_text(encoding="utf-8")
        for label in MISLEADING:
            text = text.replace(label, label.partition('" ')[2])
        place.write_text(text, encoding="utf-8")


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
    app.connect("build-finished", without_misleading_labels)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
