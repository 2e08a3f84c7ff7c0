"""Cases are timed in turns, scaled, and kept in a record that fits its schema; by a clock that the tests wind."""

import json
import sys
import time

import jsonschema
import pytest
import torch
from benchmarks import __main__ as command
from benchmarks import harness
from benchmarks.harness import Sides

from datafree import files
from datafree.book import bench
from datafree.errors import DataFreeError


class Clock:
    """CPU seconds that pass only where `work` says so."""

    now = 0.0

    def work(self, seconds, result=None):
        def function(*given):
            self.now += seconds + sum(given)
            return result

        return function


@pytest.fixture
def clock(monkeypatch):
    wound = Clock()
    monkeypatch.setattr(time, "process_time", lambda: wound.now)
    return wound


@pytest.fixture
def cases(monkeypatch):
    """No cases but those that the test registers."""
    monkeypatch.setattr(harness, "CASES", {})
    monkeypatch.setattr(harness, "GROWTHS", {})
    return harness.CASES


def register(build, name="one", **words):
    harness.case(name, **({"group": "g", "ours": "a", "theirs": "b"} | words))(build)
    return harness.CASES[name]


class TestCase:
    def test_ratio_is_ours_over_theirs(self, clock, cases):
        found = harness.run_case(register(lambda: Sides(clock.work(1.0), clock.work(4.0))))
        assert found.ratio == bench.Spread(low=0.25, median=0.25, high=0.25) and found.repeats == harness.FEWEST
        assert found.seconds == bench.Sides(ours=1.0, theirs=4.0)

    def test_long_calls_are_timed_twice(self, clock, cases):
        found = harness.run_case(register(lambda: Sides(clock.work(harness.LONG), clock.work(4.0))))
        assert found.repeats == 2 and found.seconds == bench.Sides(ours=harness.LONG, theirs=4.0)

    def test_a_share_and_several_times_are_scaled(self, clock, cases):
        one = register(lambda: Sides(clock.work(1.0), clock.work(4.0), times=2), share=0.01)
        found = harness.run_case(one)
        assert found.seconds.ours == 0.5 and found.seconds.theirs == pytest.approx(200)
        assert found.ratio.median == pytest.approx(0.0025)

    def test_short_functions_are_called_several_times(self, clock, cases):
        calls = []

        def short(*_):
            calls.append(1)
            clock.now += 1e-3

        found = harness.run_case(register(lambda: Sides(short, clock.work(1e-3))))
        assert found.repeats == harness.MOST and len(calls) == 2 + harness.MOST * round(harness.SHORT / 1e-3)
        assert found.seconds.ours == pytest.approx(1e-3)

    def test_what_is_made_anew_is_not_timed(self, clock, cases):
        def fresh():
            clock.now += 100
            return 1.0

        found = harness.run_case(register(lambda: Sides(clock.work(1.0), clock.work(2.0), fresh=fresh)))
        assert found.seconds == bench.Sides(ours=2.0, theirs=3.0)

    def test_results_are_compared_and_judged(self, clock, cases):
        ours, theirs = clock.work(1.0, torch.tensor([1.0, 2.0])), clock.work(1.0, torch.tensor([1.0, 4.0]))
        sides = Sides(ours, theirs, difference=harness.furthest, points=lambda z: float(z.sum()))
        found = harness.run_case(register(lambda: sides))
        assert found.difference == 0.5 and found.points == bench.Sides(ours=3.0, theirs=5.0)

    def test_seconds_that_a_case_took_itself_are_kept(self, cases):
        found = harness.run_case(register(lambda: [(1.0, 2.0), (3.0, 4.0)]))
        assert found.repeats == 2
        assert (found.ratio.low, found.ratio.high) == (0.5, 0.75)

    def test_what_cannot_run_says_why(self, cases):
        def never():
            raise AssertionError("a case that cannot run was built")

        missing = harness.run_case(register(never, needs="no_such_package"))
        refused = harness.run_case(register(never, "two", when=lambda: "no wings"))
        assert isinstance(missing, bench.Absent) and "no_such_package" in missing.reason
        assert refused.reason == "no wings"

    def test_a_name_serves_one_case(self, cases):
        register(list)
        with pytest.raises(DataFreeError, match="registered twice"):
            register(list)


def test_growth_finds_the_exponent(clock):
    found = harness.run_growth("n", "size", (1, 2, 4), lambda _axis, size: clock.work(0.5 * size**2), 2)
    assert found.slope.low == pytest.approx(2) and found.slope.high == pytest.approx(2)
    assert [s.median for s in found.seconds] == pytest.approx([0.25, 1.0, 4.0])


def test_every_case_of_the_project_is_registered_with_words():
    every = list(harness.CASES.values())
    assert len({one.group for one in every}) == 7 and all(one.ours and one.theirs for one in every)
    axes = {"batch", "depth", "width", "image side"}
    for name in ("synthesis step", "search for ranks"):
        assert axes <= {axis for other, axis, *_ in harness.GROWTHS.values() if other == name}


class TestCommand:
    @pytest.fixture
    def run(self, cases, clock, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(files, "BUILD", tmp_path)
        register(lambda: Sides(clock.work(1.0, 1), clock.work(2.0, 2), points=float), "first")
        register(list, "second", needs="no_such_package")
        harness.growth("third", {"size": (1, 2)})(lambda _axis, size: clock.work(float(size)))

        def call(*arguments):
            monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--out", str(tmp_path / "bench.json")])
            command.main()
            return capsys.readouterr().out

        return call

    def test_the_record_fits_its_schema_and_is_read_again(self, run, tmp_path):
        said = run()
        content = json.loads((tmp_path / "bench.json").read_text())
        schema = json.loads((tmp_path / "bench.schema.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(content, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | {"machine": 3}, schema)
        found = bench.read(tmp_path / "bench.json")
        assert [len(rows) for rows in (found.comparisons, found.absent, found.growth)] == [1, 1, 1]
        assert found.machine.endswith("1 thread") and "0.5 [0.5, 0.5]  first" in said and "slope of third" in said

    def test_a_word_picks_cases(self, run, tmp_path):
        run("thi")
        found = bench.read(tmp_path / "bench.json")
        assert not found.comparisons and [row.name for row in found.growth] == ["third"]

    def test_an_unknown_word_is_named(self, run):
        with pytest.raises(DataFreeError, match="no case is called nothing; there are: first; second; third"):
            run("nothing")
