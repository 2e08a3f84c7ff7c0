"""Records: which are read, which replace which, and which are refused."""

import json

import pytest
from conftest import RECORDED, record_of
from hypothesis import example, given
from hypothesis import strategies as st

from datafree.errors import DataFreeError
from datafree.evidence.record import digest, plain, portable, read, read_all, scan

NAME = RECORDED

pytestmark = pytest.mark.usefixtures("places")


def write(path, **changes):
    """A valid record, made as asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record_of(**changes)))
    return path


def test_a_trial_among_the_records_does_not_hide_the_committed_one(places):
    write(places / "records" / "book" / NAME / "seed0.json", metrics={"x": 1})
    write(places / "_build" / "records" / "book" / NAME / "seed0.json", overrides={"steps": 3})
    (record,) = read_all()
    assert record["metrics"] == {"x": 1}


def test_fresh_records_replace_committed_ones(places):
    write(places / "records" / "book" / NAME / "seed0.json", metrics={"x": 1})
    write(places / "records" / "book" / NAME / "seed1.json", seed=1)
    write(places / "_build" / "records" / "book" / NAME / "seed0.json", metrics={"x": 2})
    found = read_all()
    assert [(r["seed"], r["metrics"]) for r in found] == [(0, {"x": 2}), (1, {})]


def test_the_same_run_twice_in_one_place_is_an_error(places):
    write(places / "records" / "book" / NAME / "seed0.json")
    write(places / "records" / "book" / NAME / "copy.json")
    with pytest.raises(DataFreeError, match="copy.json.*seed0.json.*remove one"):
        read_all()


def test_unfinished_files_are_not_records(places):
    path = write(places / "records" / "book" / NAME / "seed0.json")
    (path.parent / ".seed0-x.json").write_text("{")
    assert len(read_all()) == 1


def _sealed(content):
    """Content with a digest that fits, as somebody would write who knows how."""
    return content | {"digest": digest(content)}


def _broken(path, kind):
    content = json.loads(path.read_text())
    if kind == "half":
        return path.write_text(path.read_text()[: path.stat().st_size // 2])
    if kind == "bytes":
        return path.write_bytes(b"\xff\x00\xfe")
    if kind == "twice":
        return path.write_text(path.read_text().replace('"seed": 0', '"seed": 0, "seed": 0'))
    if kind == "input twice":
        return path.write_text(path.read_text().replace('"inputs": {', '"inputs": {"a": "1", "a": "1"'))
    if kind == "deep":
        return path.write_text("[" * 100_000)
    changes = {
        "list": [],
        "nan": content | {"metrics": {"x": float("nan")}},
        "edited": content | {"metrics": {"x": 2}},
        "edited hits": content | {"hits": {"top1": "8:c${NkU"}},
        "no digest": {k: v for k, v in content.items() if k != "digest"},
        "no metrics": _sealed({k: v for k, v in content.items() if k != "metrics"}),
        "old": _sealed(content | {"claims": []}),
        "stranger": _sealed(content | {"colour": "red"}),
        "seed as text": _sealed(content | {"seed": "0"}),
        "another seed": _sealed(content | {"seed": 3}),
        "escape": _sealed(content | {"profile": "../../x"}),
        "escape of the notebook": _sealed(content | {"notebook": "../x"}),
        "hits as numbers": _sealed(content | {"hits": {"top1": 3}}),
        "seconds": _sealed(content | {"seconds": -1.0}),
    }
    return path.write_text(json.dumps(changes[kind]))


BROKEN = (
    "half", "bytes", "twice", "input twice", "deep", "list", "nan", "edited", "edited hits", "no digest", "no metrics", "old",
    "stranger", "seed as text", "another seed", "escape", "escape of the notebook", "hits as numbers", "seconds",
)  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_records_are_named(places, kind):
    path = write(places / "records" / "book" / NAME / "seed0.json", metrics={"x": 1})
    assert len(read_all()) == 1
    _broken(path, kind)
    with pytest.raises(DataFreeError, match="seed0.json'"):
        read_all()
    found, problems = scan()
    assert found == [] and len(problems) == 1


@pytest.mark.parametrize(
    "kind, words",
    [
        ("edited", "its digest does not fit"),
        ("another seed", "of seed 3, which its name contradicts"),
        ("input twice", "a key twice"),
        ("nan", "not a number"),
    ],
)
def test_the_sentence_says_what_is_wrong(places, kind, words):
    path = write(places / "records" / "book" / NAME / "seed0.json")
    _broken(path, kind)
    with pytest.raises(DataFreeError, match=words):
        read(path)


def test_the_digest_does_not_depend_on_the_order_of_keys():
    content = record_of({"a": 1, "b": [1.0, "é"]})
    assert digest(dict(reversed(content.items()))) == content["digest"] == digest(json.loads(json.dumps(content)))


def test_an_empty_folder_has_no_records():
    assert read_all() == []


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
        max_leaves=8,
    )
)
def test_plain_values_pass_unchanged(value):
    assert plain(value, "x") == value


@given(st.text())
@example("/")
@example("folder:/")
def test_portable_text_has_no_folders(text):
    once = portable(text)
    assert portable(once) == once
    assert "/" not in once or once.count("/") == 1


def test_a_record_of_the_first_edition_says_so(places):
    path = places / "seed0.json"
    path.write_text(json.dumps({"notebook": NAME, "claims": [], "metrics": {}}))
    with pytest.raises(DataFreeError, match="earlier edition.*run its notebook again"):
        read(path)
