"""The generated pages: templates say how a page looks, Python prepares what stands in it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import jinja2

_MARKUP = re.compile(r"[\\`*_{}\[\]<>$|#~&@%^]|\.(?=\w)|:(?=/)")
"""Signs that Markdown would read as markup, and those that would make a link of 'net.th' or 'x://y'."""


def escaped(text: Any) -> str:
    """`text` on one line, to be shown as it is: the filter `text` of the templates."""
    return _unmarked(" ".join(str(text).split()))


def prose(text: Any) -> str:
    """Text of a docstring: what stands in backticks is code or a formula, all else is shown as it is. The filter `prose`."""
    text = re.sub(r":math:(?=`)", "{math}", " ".join(str(text).split()))
    parts = re.split(r"((?:{math})?`+[^`]+`+)", text)
    return "".join(part if part.endswith("`") else _unmarked(part) for part in parts)


def _unmarked(text: str) -> str:
    return _MARKUP.sub(lambda match: "\\" + match[0], text)


def code(text: str) -> str:
    """Inline code whatever signs `text` holds: the filter `code` of the templates."""
    # A fence of backticks is closed by as many; so it gets one more than the longest run inside.
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": escaped, "prose": prose, "code": code, "html": html.escape}
    return environment


def page(name: str, **content: Any) -> str:
    """The page of the template NAME.md.j2 with `content` in it."""
    return _templates().get_template(f"{name}.md.j2").render(content)
