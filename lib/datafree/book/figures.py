"""Figures and tables of a page: numbered captions, and pictures in files of their own that a browser loads when needed."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

SVG = "application/x-datafree-svg"
"""Kind of output that holds a figure's drawing; Jupyter shows the picture, and pages take the drawing."""

INK = "#595959"
"""Lines and text of a figure."""

DARK_INK = "#c3cad3"
"""What stands for the ink where the page is dark."""

_PICTURE = re.compile(
    r'<img src="data:image/png;base64,(?P<data>[^"]+)" alt="(?P<alt>[^"]*)" style="max-width: min\(100%, (?P<width>\d+)px\)">'
)
_CAPTION = re.compile(r"<caption>(.*?)</caption>", re.S)


class Numbered:
    """Counts the figures and tables of one chapter and puts the pictures into a folder.

    Args:
        chapter: its number, the first part of each figure's number.
        folder: where pictures go.
        address: how pages find that folder.
    """

    def __init__(self, chapter: int, folder: Path, address: str):
        self.chapter, self.folder, self.address = chapter, folder, address
        self.figures = self.tables = 0
        self._drawn: dict[int, tuple[str, str]] = {}

    def cell(self, cell: dict[str, Any]) -> dict[str, Any]:
        """The cell with its figures and tables as pages show them."""
        if cell["cell_type"] != "code":
            return cell
        return cell | {"outputs": [self._output(output) for output in cell["outputs"]]}

    def _output(self, output: dict[str, Any]) -> dict[str, Any]:
        shown = "".join(output.get("data", {}).get("text/html", ""))
        drawing = "".join(output.get("data", {}).get(SVG, ""))
        if picture := _PICTURE.fullmatch(shown):
            text = self._figure(picture, drawing)
        elif _CAPTION.search(shown):
            self.tables += 1
            head = f"<caption><strong>Table {self.chapter}.{self.tables}.</strong> "
            text = _CAPTION.sub(lambda match: f"{head}{match[1]}</caption>", shown, count=1)
        else:
            return output
        return output | {"data": {"text/html": text}}

    def _figure(self, picture: re.Match, drawing: str) -> str:
        self.figures += 1
        name = f"{self.chapter:02}-{self.figures}"
        pixels = Image.open(io.BytesIO(base64.b64decode(picture["data"])))
        if drawing:
            files = {f"{name}.svg": drawing, f"{name}-dark.svg": drawing.replace(INK, DARK_INK)}
            kinds = {f"{name}.svg": "only-light", f"{name}-dark.svg": "only-dark"}
            for file, text in files.items():
                self._write(file, text.encode())
        else:
            kinds = {f"{name}.webp": "pixels"}
            buffer = io.BytesIO()
            pixels.convert("RGB").save(buffer, format="webp", quality=90)
            self._write(f"{name}.webp", buffer.getvalue())
        width = int(picture["width"])
        size = f'width="{width}" height="{round(width * pixels.height / pixels.width)}"'
        images = "".join(
            f'<img class="{kind}" src="{self.address}/{file}" alt="{picture["alt"]}" {size} loading="lazy">'
            for file, kind in kinds.items()
        )
        images = f"<div>{images}</div>"  # beside a hidden picture, the theme hides the caption too
        self._drawn[self.figures] = picture["alt"], images
        download = f' <a href="{self.address}/{name}.svg" download>SVG</a>' if drawing else ""
        caption = f"<strong>Figure {self.chapter}.{self.figures}.</strong> {picture['alt']}{download}"
        return f'<figure class="drawn" id="figure-{self.chapter}-{self.figures}">{images}<figcaption>{caption}</figcaption></figure>'

    def again(self, start: str) -> str:
        """The figure whose caption begins with `start`, once more for the head of the page; nothing where it is not drawn."""
        for k, (caption, images) in self._drawn.items():
            if caption.startswith(start):
                link = f'<a href="#figure-{self.chapter}-{k}">Figure {self.chapter}.{k}</a>'
                picture = images.replace('loading="lazy"', 'loading="eager"')
                return f'<figure class="drawn hero">{picture}<figcaption>{link}, explained below.</figcaption></figure>'
        return ""

    def _write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
