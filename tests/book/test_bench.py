"""The page of the benchmarks: drawn from the committed record, with its figure, record and schema beside it."""

import json

import pytest
from conftest import leave_speed, speed_record
from PIL import Image

from datafree.book import bench
from datafree.errors import DataFreeError

pytestmark = pytest.mark.usefixtures("places")


def test_page_shows_what_the_record_holds(tmp_path):
    leave_speed(speed_record())
    page = bench.write_page(tmp_path)
    assert (
        "in 1.0 minutes (1.0 of the processor) on Linux" in page
        and "12.3 ms" in page
        and "1.5 s" in page
        and r"0.0082 [0.0041, 0.0164]" in page
    )
    assert "1 % of their work" in page and "2e-06" in page
    assert "slope 1.00" in page and "- gone: x" in page
    assert json.loads((tmp_path / "bench.schema.json").read_text())["title"] == "Bench"
    assert bench.read(tmp_path / "bench.json") == speed_record()
    with Image.open(tmp_path / "bench.png") as figure:
        assert figure.mode == "RGBA" and figure.getpixel((0, 0))[3] == 0, "transparent, for light and dark pages"


def test_a_record_without_growth_has_no_figure(tmp_path):
    leave_speed(speed_record(growth=False))
    assert "bench.png" not in bench.write_page(tmp_path) and not (tmp_path / "bench.png").exists()


def test_without_a_record_the_page_says_how_to_make_one(tmp_path):
    assert "make bench" in bench.write_page(tmp_path) and not list(tmp_path.glob("bench*"))


@pytest.mark.parametrize("text, said", [("{", "nvalid JSON"), ('{"command": 3}', "command")])
def test_a_damaged_record_is_named(tmp_path, text, said):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(DataFreeError, match=said) as caught:
        bench.read(path)
    assert "bench.json" in str(caught.value)


@pytest.mark.parametrize(
    "seconds, text", [(1.234, "1.23 s"), (0.5, "500 ms"), (0.0123, "12.3 ms"), (4e-5, "40 µs"), (1234.5, "1234 s")]
)
def test_seconds_come_in_the_unit_that_suits(seconds, text):
    assert bench.duration(seconds) == text
