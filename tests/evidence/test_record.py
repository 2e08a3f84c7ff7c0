"""Chapters and the records they leave."""

import json
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from datafree import files
from datafree.book import chapters, parameters
from datafree.core.provenance import git_state, provenance
from datafree.errors import DataFreeError
from datafree.evidence.record import plain, portable, read, read_all, scan

NAME = "01_kw_synthesis"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Records go to, and come from, a folder of the test."""
    monkeypatch.setattr(files, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(files, "RECORDS", tmp_path / "records")
    monkeypatch.delenv("DATAFREE_RECORD", raising=False)
    return tmp_path


def namespace(notebook=NAME, **changes):
    return parameters.NOTEBOOKS[notebook]().model_dump() | {"torch": torch, "other": 3} | changes


def start(**changes):
    return chapters.begin(NAME, namespace(**changes))


def write(path, **changes):
    """A valid record of our own making, changed as asked."""
    chapter = start()
    chapter.claim("kw-c12", holds=True, measured={"end": 0.1})
    content = chapter.record() | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_a_run_leaves_one_whole_record(places, capsys):
    chapter = start(seed=3)
    chapter.metric("jkl", torch.tensor(0.25))
    chapter.metric("curve", np.array([1.0, 2.0]))
    chapter.claim("kw-c12", holds=np.bool_(True), measured={"end": torch.tensor([0.5, 0.25])}, note="n", margin=0.1)
    chapter.claim("kw-c13", holds=None)
    chapter.finish()
    folder = places / "_build" / "records" / "book" / NAME
    assert [p.name for p in folder.iterdir()] == ["seed3.json"]
    record = json.loads((folder / "seed3.json").read_text())
    assert record["metrics"] == {"jkl": 0.25, "curve": [1.0, 2.0]}
    assert record["claims"][0]["measured"] == {"end": [0.5, 0.25]} and record["claims"][0]["scale"] == "book"
    assert record["command"] == f"datafree run {NAME} --profile book --seed 3"
    assert record["seconds"] >= 0 and record["cpu_seconds"] >= 0 and record["peak_memory_mb"] > 10
    assert record["provenance"]["packages"]["torch"] and record["overrides"] == {}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{NAME} · profile book · seed 3 · commit ")
    assert lines[1].startswith("kw-c12 holds: Minimising J_KL") and lines[2].startswith("kw-c13 undecided: ")
    assert lines[3] == f"{NAME}: record written." and len(lines) == 4


def test_what_finish_wrote_is_what_read_all_reads():
    chapter = start()
    chapter.claim("kw-c12", holds=False)
    chapter.finish()
    (record,) = read_all()
    assert record["claims"][0]["holds"] is False and record["path"].name == "seed0.json"


def test_the_runner_chooses_the_place(places, monkeypatch):
    monkeypatch.setenv("DATAFREE_RECORD", str(places / "here" / "r.json"))
    start().finish()
    assert read(places / "here" / "r.json")["notebook"] == NAME
    assert not (places / "_build").exists()


def test_changed_parameters_make_a_trial():
    chapter = start(steps=3, weights="/home/somebody/net 1.pt")
    chapter.claim("kw-c12", holds=True)
    chapter.finish()
    content = (files.BUILD / "runs" / NAME / "seed0.json").read_text()
    assert "somebody" not in content
    record = json.loads(content)
    assert record["overrides"] == {"steps": 3, "weights": "PATH/net 1.pt"}
    assert record["command"].endswith("-p 'weights=PATH/net 1.pt' -p steps=3")
    assert read_all() == []


def test_a_trial_among_the_records_does_not_hide_the_committed_one(places):
    write(places / "records" / "book" / NAME / "seed0.json", metrics={"x": 1})
    write(places / "_build" / "records" / "book" / NAME / "seed0.json", overrides={"steps": 3})
    (record,) = read_all()
    assert record["metrics"] == {"x": 1}


def test_what_the_paper_profile_leaves_to_the_user_is_no_change():
    name = "12_frandi_segmentation"
    config = parameters.resolve(name, "paper", {"weights": "/data/net.pt", "root": "/data/voc"})
    record = chapters.begin(name, config.model_dump()).record()
    assert record["overrides"] == {} and record["profile"] == "paper"
    assert "-p weights=PATH/net.pt -p root=PATH/voc" in record["command"]


def test_smoke_runs_never_claim_a_scale():
    config = parameters.resolve(NAME, "smoke")
    chapter = chapters.begin(NAME, config.model_dump())
    chapter.claim("kw-c12", holds=True, scale="paper")
    assert chapter.record()["claims"][0]["scale"] == "smoke"


def test_begin_seeds_everything():
    draws = []
    for _ in range(2):
        start(seed=5)
        draws.append((torch.rand(3).tolist(), np.random.rand(3).tolist()))
    assert draws[0] == draws[1]
    start(seed=6)
    assert torch.rand(3).tolist() != draws[0][0]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"steps": "150"}, "'steps'.*integer"),
        ({"rate": float("nan")}, "finite"),
        ({"copies": 0}, "greater than"),
        ({"seed": True}, "'seed'"),
        ({"profile": "bok"}, "did you mean 'book'"),
        ({"profile": "../x"}, "'profile'"),
    ],
)
def test_begin_refuses_bad_parameters(changes, words):
    with pytest.raises(DataFreeError, match=words):
        start(**changes)


def test_begin_needs_the_parameters_cell():
    with pytest.raises(DataFreeError, match="does not set seed, profile"):
        chapters.begin(NAME, {"batch": 3})
    with pytest.raises(DataFreeError, match="did you mean"):
        chapters.begin("01_kw_synthesi", {})


@pytest.mark.parametrize(
    "claim_id, arguments, words",
    [
        ("kw-c99", {"holds": True}, "'kw-c99' is not in"),
        ("kw-c12", {"holds": 1}, "'holds'"),
        ("kw-c12", {"holds": "yes"}, "'holds'"),
        ("kw-c12", {"holds": torch.tensor([True, False])}, "'holds'"),
        ("kw-c12", {"holds": True, "measured": {"a": float("nan")}}, "kw-c12.a' is nan"),
        ("kw-c12", {"holds": True, "measured": {"a": {"b": [1.0, torch.tensor(torch.inf)]}}}, "kw-c12.a.b' is inf"),
        ("kw-c12", {"holds": True, "measured": {"a": object()}}, "is a object"),
        ("kw-c12", {"holds": True, "measured": [1]}, "'measured'"),
        ("kw-c12", {"holds": True, "margin": float("inf")}, "is inf"),
        ("kw-c12", {"holds": True, "scale": "huge"}, "'scale'"),
        ("kw-c12", {"holds": True, "note": 3}, "'note'"),
    ],
)
def test_bad_claims_are_refused(claim_id, arguments, words):
    chapter = start()
    with pytest.raises(DataFreeError, match=words):
        chapter.claim(claim_id, **arguments)
    assert chapter.record()["claims"] == []


def test_a_claim_is_measured_once_a_run():
    chapter = start()
    chapter.claim("kw-c12", holds=True)
    with pytest.raises(DataFreeError, match="already measured"):
        chapter.claim("kw-c12", holds=False)


def test_statements_of_ours_are_kept_apart(capsys):
    chapter = start()
    chapter.addition("own-gaussian", "It helps.", holds=True, measured={"gain": 3.5})
    assert capsys.readouterr().out.endswith("own-gaussian holds: It helps.\n")
    assert chapter.record()["claims"] == [] and chapter.record()["additions"][0]["statement"] == "It helps."
    with pytest.raises(DataFreeError, match="already measured"):
        chapter.addition("own-gaussian", "It helps.", holds=False)
    with pytest.raises(DataFreeError, match="starts with 'own-'"):
        chapter.addition("kw-c12", "It helps.", holds=True)


def test_metrics_refuse_what_is_no_number():
    chapter = start()
    with pytest.raises(DataFreeError, match="'loss' is nan"):
        chapter.metric("loss", torch.tensor([1.0, float("nan")]))
    with pytest.raises(DataFreeError, match="'path' is a PosixPath|'path' is a WindowsPath"):
        chapter.metric("path", files.ROOT)


def test_a_record_that_cannot_be_written_is_one_sentence(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("DATAFREE_RECORD", str(places / "file" / "r.json"))
    with pytest.raises(DataFreeError, match="cannot write"):
        start().finish()


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


def _broken(path, kind):
    content = json.loads(path.read_text())
    if kind == "half":
        return path.write_text(path.read_text()[: path.stat().st_size // 2])
    if kind == "bytes":
        return path.write_bytes(b"\xff\x00\xfe")
    changes = {
        "list": [],
        "nan": content | {"metrics": {"x": float("nan")}},
        "no claims": {k: v for k, v in content.items() if k != "claims"},
        "stranger": content | {"colour": "red"},
        "seed": content | {"seed": "0"},
        "escape": content | {"profile": "../../x"},
        "twice": content | {"claims": content["claims"] * 2},
        "verdict": content | {"claims": [content["claims"][0] | {"holds": "true"}]},
        "seconds": content | {"seconds": -1.0},
    }
    return path.write_text(json.dumps(changes[kind]))


@pytest.mark.parametrize(
    "kind", ["half", "bytes", "list", "nan", "no claims", "stranger", "seed", "escape", "twice", "verdict", "seconds"]
)
def test_broken_records_are_named(places, kind):
    path = write(places / "records" / "book" / NAME / "seed0.json")
    assert len(read_all()) == 1
    _broken(path, kind)
    with pytest.raises(DataFreeError, match="seed0.json'"):
        read_all()
    found, problems = scan()
    assert found == [] and len(problems) == 1


def test_an_empty_folder_has_no_records():
    assert read_all() == []


def _git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state_sees_every_change(tmp_path, monkeypatch):
    assert git_state(tmp_path / "nowhere") == {"commit": "unknown", "dirty": True}
    root = tmp_path / "checkout"
    (root / "lib").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "lib" / "a.py").write_text("1")
    _git(root, "init", "-q")
    _git(root, "add", ".")
    _git(root, "commit", "-qm", "one", "--no-verify")
    _git(root, "config", "status.showUntrackedFiles", "no")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    clean = git_state(root)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (root / "README").write_text("outside")
    assert git_state(root)["dirty"] is False
    (root / "notebooks" / "new.ipynb").write_text("{}")
    assert git_state(root)["dirty"] is True
    (root / "notebooks" / "new.ipynb").unlink()
    (root / "lib" / "a.py").write_text("2")
    assert git_state(root)["dirty"] is True


def test_the_machine_has_no_name():
    import getpass
    import platform

    text = json.dumps(provenance())
    assert platform.node() not in text or len(platform.node()) < 3
    assert f'"{getpass.getuser()}"' not in text


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
