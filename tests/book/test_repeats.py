"""The page of repeated runs: what is compared with what, what is too far, and what the committed records say."""

import json

import pytest
from conftest import RECORDED, record_of

from datafree import files
from datafree.book import markdown, repeats
from datafree.evidence import compare

AGAIN, TWO, _, FLOAT32 = repeats.KINDS


@pytest.fixture
def leave(tmp_path, monkeypatch):
    """Write a repeated run with this one number."""
    monkeypatch.setattr(files, "ROOT", tmp_path)

    def write(name, value):
        path = repeats.folder() / RECORDED / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record_of({"divergence": value, "kept": 1.0})))

    return write


def test_a_run_stands_beside_the_one_that_it_repeats(leave):
    leave("threads1", 2.0)
    leave("again", 2.0)
    leave("threads2", 2.01)
    leave("one", 3.0)  # no name of a kind
    rows = {kind: repeats.row(kind, first, second) for kind, first, second in repeats.pairs()}
    assert list(rows) == [AGAIN, TWO]
    assert (rows[AGAIN]["same"], rows[AGAIN]["moved"]) == (2, 0)
    assert (rows[TWO]["same"], rows[TWO]["moved"]) == (1, 1) and rows[TWO]["largest"] == pytest.approx(100 / 201)
    assert "| `01_kw_synthesis` | two threads for one | 1 | 1 | 0.5 % |" in repeats.page()


@pytest.mark.parametrize(
    ("kind", "value", "far"),
    [
        (AGAIN, 2.0000001, 1),
        (AGAIN, 2 + 1e-15, 0),
        (TWO, 2.01, 0),
        (TWO, 2.03, 1),
        (FLOAT32, 2.1, 0),
        (FLOAT32, 2.3, 1),
    ],
)
def test_what_is_too_far_is_named(leave, kind, value, far):
    leave(kind.beside, 2.0)
    leave(kind.name, value)
    ((found, first, second),) = repeats.pairs()
    row = repeats.row(found, first, second)
    assert found == kind and len(row["far"]) == far
    assert ("divergence" in repeats.page()) == bool(far)


def test_without_records_the_page_says_so(leave):
    assert "No repeated run is recorded yet." in repeats.page()


COMMITTED = repeats.pairs()


@pytest.mark.parametrize("pair", COMMITTED, ids=[f"{first['notebook']}-{kind.name}" for kind, first, _ in COMMITTED])
def test_the_committed_runs_agree(pair):
    """But in precision, which makes other images: there, all that lies too far stands on the page."""
    row, page = repeats.row(*pair), repeats.page()
    assert row["same"] + row["moved"] > 20
    assert all(f": {markdown.escaped(said)}" in page for said in row["far"] + row["beyond"])
    if pair[0] != FLOAT32:
        assert row["far"] == [] and row["beyond"] == []


def test_each_kind_differs_in_what_its_name_says():
    assert {kind for kind, _, _ in COMMITTED} >= {AGAIN, TWO}
    for kind, first, second in COMMITTED:
        differs = set(compare.compare(first, second).differs)
        assert differs <= {AGAIN: set(), FLOAT32: {"parameters: precision", "fingerprint"}}.get(
            kind, {"machine: threads"}
        )
