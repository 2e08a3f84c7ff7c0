"""Figures and tables of a page: numbered, in files of their own, in an ink for each theme."""

import itertools
import re

import matplotlib

matplotlib.use("agg")

import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from datafree.book import figures, plots


@pytest.fixture
def shown(monkeypatch):
    """Outputs as a notebook keeps them."""
    found = []
    keep = lambda data, raw: found.append({"output_type": "display_data", "data": data, "metadata": {}})  # noqa: E731
    monkeypatch.setattr(plots, "display", keep)
    return found


def page(outputs, folder):
    cell = {"cell_type": "code", "outputs": outputs}
    cells = figures.Numbered(3, folder, "at").cell(cell)["outputs"]
    return BeautifulSoup("".join(output["data"]["text/html"] for output in cells), "html.parser")


def test_a_drawing_comes_in_two_inks_and_can_be_downloaded(shown, tmp_path):
    plots.show(plots.curves({"a": {"BNS": [1, 2]}}, xlabel="step", ylabels=["y"]), 'A "curve" & more.')
    soup = page(shown, tmp_path)
    light, dark = soup.find_all("img")
    assert (light["src"], dark["src"]) == ("at/03-1.svg", "at/03-1-dark.svg")
    assert light["alt"] == 'A "curve" & more.' and soup.figcaption.get_text().startswith(
        'Figure 3.1. A "curve" & more.'
    )
    assert soup.a["href"] == "at/03-1.svg"
    ink, pale = ((tmp_path / name).read_text() for name in ("03-1.svg", "03-1-dark.svg"))
    assert figures.INK in ink and figures.INK not in pale and figures.DARK_INK in pale
    assert int(light["width"]) > int(light["height"]) > 0


def test_pixels_are_kept_as_a_picture(shown, tmp_path):
    plots.show(plots.sheet({"real": torch.rand(10, 3, 8, 8)}), "Ten.")
    soup = page(shown, tmp_path)
    assert soup.img["src"] == "at/03-1.webp" and soup.img["class"] == ["pixels"] and not soup.a
    assert Image.open(tmp_path / "03-1.webp").width > 400


def test_figures_and_tables_count_apart_and_other_outputs_stay(shown, tmp_path):
    table = {"data": {"text/html": "<table><caption>Of x</caption></table>"}}
    stream = {"output_type": "stream", "text": "1"}
    for k in range(2):
        plots.show(plots.scatter({"a": ([1, 2], [1, 2])}, xlabel="x", ylabel="y"), f"Plot {k}.")
    counted = figures.Numbered(9, tmp_path, "at")
    outputs = counted.cell({"cell_type": "code", "outputs": [shown[0], table, stream, shown[1]]})["outputs"]
    text = "".join(output["data"]["text/html"] for output in outputs if "data" in output)
    assert re.findall(r"(?:Figure|Table) 9\.\d\.", text) == ["Figure 9.1.", "Table 9.1.", "Figure 9.2."]
    assert outputs[2] == stream


def test_curves_bear_their_names_at_their_ends(shown):
    figure = plots.curves({"a": {"high": [1, 9.0], "low": [9, 1.0], "beside": [5, 1.1]}}, xlabel="x", ylabels=["y"])
    figure.axes[0].legend()
    plots.show(figure, "a")
    names = {text.get_text(): text.xy[1] for text in figure.axes[0].texts}
    assert names["low"] < names["beside"] < names["high"] and figure.axes[0].get_legend() is None
    assert names["beside"] - names["low"] > 0.05, "names do not cover each other"
    pieces = {line.get_ydata()[0]: line for line in figure.axes[0].lines if line.get_label() == "_piece"}
    for line in figure.axes[0].lines[:3]:
        piece = pieces[names[line.get_label()]]
        assert (piece.get_color(), piece.get_linestyle()) == (line.get_color(), line.get_linestyle())


def contrast(one, other):
    def light(colour):
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


def test_names_of_points_do_not_cover_each_other(shown):
    figure = plots.scatter({"": ([1.0, 1.01, 1.0, 3.0], [1.0, 1.0, 1.02, 2.0])}, xlabel="", ylabel="")
    (axis,) = figure.axes
    names = [axis.annotate(f"method {k}", (x, y), xytext=(3, 3), textcoords="offset points")
             for k, (x, y) in enumerate([(1.0, 1.0), (1.01, 1.0), (1.0, 1.02), (3.0, 2.0)])]  # fmt: skip
    boxes = lambda: [name.get_window_extent() for name in names]  # noqa: E731
    covering = lambda: [(a, b) for a, b in itertools.combinations(boxes(), 2) if a.overlaps(b)]  # noqa: E731
    assert covering() and names[3].get_position() == (3, 3)
    plots._part_names(axis)
    assert not covering() and names[3].get_position() == (3, 3)


def test_ink_can_be_read_on_both_themes():
    assert contrast(figures.INK, "#ffffff") > 4.5 and contrast(figures.DARK_INK, "#222832") > 4.5
    assert min(contrast(colour, "#ffffff") for colour in plots.METHODS.values()) > 4.5


def test_a_chapters_figure_is_drawn_again_at_its_head(shown, tmp_path):
    plots.show(plots.curves({"a": {"BNS": [1, 2]}}, xlabel="step", ylabels=["y"]), "Curves of one run.")
    numbered = figures.Numbered(3, tmp_path, "at")
    numbered.cell({"cell_type": "code", "outputs": shown})
    soup = BeautifulSoup(numbered.again("Curves of"), "html.parser")
    assert soup.a["href"] == "#figure-3-1" and soup.img["alt"] == "Curves of one run."
    assert numbered.again("Another") == ""
