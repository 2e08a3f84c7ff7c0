"""What a build says while it runs."""

import json
import os

import pytest

from datafree import files
from datafree.book import plan, progress
from datafree.evidence.record import cost


def leave(folder, name, seconds, when=None):
    path = folder / "book" / name / "seed0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds, "peak_memory_mb": 345}))
    if when is not None:
        os.utime(path, (when, when))


@pytest.mark.parametrize(
    ("running", "waiting", "cores", "left"),
    [
        ([], [], 2, 0),
        ([], [30, 20, 10], 1, 60),
        ([], [10, 20, 30], 2, 30),
        ([50], [40, 20], 2, 60),
        ([5, 10], [], 4, 10),
    ],
)
def test_the_longest_first_on_the_next_free_core(running, waiting, cores, left):
    assert progress.seconds_left(running, waiting, cores) == left


@pytest.mark.parametrize(
    ("seconds", "said"), [(10, "less than a minute"), (50, "about 1 minute"), (170, "about 3 minutes")]
)
def test_minutes_in_words(seconds, said):
    assert progress.in_words(seconds) == said


def test_what_to_expect_comes_from_this_machine_else_from_the_committed_record(places):
    assert cost("a") is None and progress.expected("a", "book") is None
    leave(files.RECORDS, "a", 100)
    assert cost("a") == (100, None, 345)
    leave(files.BUILD / "records", "a", 40)
    assert progress.expected("a", "book") == 40
    (files.BUILD / "records/book/a/seed0.json").write_text("[")
    assert progress.expected("a", "book") == 100


def test_the_line_counts_what_began_and_ended_in_this_build(places):
    for name, seconds in {"a": 60, "b": 120, "c": 240}.items():
        leave(files.BUILD / "records", name, seconds, when=1000)
    build = progress.Progress([("a", 0), ("b", 0), ("c", 0)], "book", cores=2)
    build.start = 2000
    assert build.line(2000) == "0 of 3 chapters done; about 4 minutes to go"
    begun = files.BUILD / "logs" / "book-c-seed0.begun"
    begun.parent.mkdir()
    begun.touch()
    os.utime(begun, (2000, 2000))
    leave(files.BUILD / "records", "a", 60, when=2060)
    assert build.line(2120) == "1 of 3 chapters done; running c; about 2 minutes to go"


def test_a_line_is_said_once(places, capsys):
    with progress.shown([("a", 0)], "book", 1):
        pass
    assert capsys.readouterr().out == "0 of 1 chapters done\n"
    with progress.shown([], "book", 1):
        pass
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("gigabytes", "cores"), [(64, 4), (5, 2), (1, 1)])
def test_a_core_for_each_chapter_that_memory_holds(monkeypatch, gigabytes, cores):
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(plan.os, "sysconf", lambda name: 1024 if name == "SC_PAGE_SIZE" else gigabytes * 2**20)
    assert plan.usual_cores() == cores
