"""Sliders: points of the records at one scale, a drawing and a table that need no script."""

import pytest
from bs4 import BeautifulSoup

from datafree.book import explore, parameters
from datafree.evidence.record import read_all

ONE = explore.Explorer(
    title="T", slider="bits", unit="points", settings=["8", "4", "2"], series=["a", "b"], path="{series}/{k}"
)


def run(profile, seed, **metrics):
    return {"notebook": "x", "profile": profile, "seed": seed, "metrics": metrics}


@pytest.fixture
def one(monkeypatch):
    monkeypatch.setattr(explore, "explorers", lambda: {"x": ONE})


@pytest.mark.usefixtures("one")
def test_values_are_of_one_scale_and_have_every_series():
    found = [run("book", k, a=[90, 80, k], b=[91, 70]) for k in range(3)] + [run("reduced", 0, a=[50])]
    table, described = explore.values("x", found)
    assert table == {"a": {"8": 90, "4": 80}, "b": {"8": 91, "4": 70}}
    assert described == "mean of 3 runs at the scale 'book'"


@pytest.mark.usefixtures("one")
def test_the_table_holds_what_the_drawing_shows():
    soup = BeautifulSoup(explore.box("x", [run("book", 0, a=[90, 80, 10], b=[91, 70, 30])]), "html.parser")
    rows = [[c.get_text() for c in row.find_all(["th", "td"])] for row in soup.tbody.find_all("tr")]
    assert rows == [["a", "90.0", "80.0", "10.0"], ["b", "91.0", "70.0", "30.0"]]
    curves = [[tuple(map(float, p.split(","))) for p in line["points"].split()] for line in soup.find_all("polyline")]
    assert curves[0][0][1] > curves[1][0][1] and curves[0][2][1] > curves[1][2][1]  # y counts downwards
    assert len(soup.input["data-places"].split()) == 3 and soup.find("p", hidden=True)


@pytest.mark.usefixtures("one")
def test_one_setting_is_nothing_to_move():
    assert explore.box("x", [run("book", 0, a=[1], b=[2])]) == explore.box("x", []) == ""


def test_names_of_curves_do_not_cover_each_other():
    heights = explore._apart([100, 101, 20, 266])
    assert min(abs(a - b) for k, a in enumerate(heights) for b in heights[:k]) >= explore.DISTANCE - 0.1
    assert sorted(range(4), key=heights.__getitem__) == [2, 0, 1, 3]


def test_every_slider_has_points_on_record():
    assert set(explore.explorers()) <= set(parameters.NOTEBOOKS)
    found = read_all()
    assert all(explore.box(name, found) for name in explore.explorers())
