"""A run of a chapter: its parameters, its images, and the record it leaves."""

import json

import numpy as np
import pytest
import torch
from conftest import RECORDED

from datafree import files
from datafree.book import chapters, parameters
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.evidence import ledger
from datafree.evidence.record import read, read_all
from datafree.papers.knowledge_within import synthesis

NAME = RECORDED

pytestmark = pytest.mark.usefixtures("places")


def namespace(notebook=NAME, **changes):
    return parameters.NOTEBOOKS[notebook]().model_dump() | {"torch": torch, "other": 3} | changes


def start(**changes):
    return chapters.begin(NAME, namespace(**changes))


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


def test_what_the_paper_profile_leaves_to_the_user_is_no_change():
    config = parameters.resolve(NAME, "paper", {"weights": "/data/r44.th", "root": "/data/cifar"})
    chapter = chapters.begin(NAME, config.model_dump())
    chapter.claim("kw-c12", holds=True)
    record = chapter.record()
    assert record["overrides"] == {} and record["claims"][0]["scale"] == "paper"
    assert "-p weights=PATH/r44.th -p root=PATH/cifar" in record["command"]


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


def test_a_real_chapter_reaches_the_ledger(places):
    """From begin() to the state, through the files."""
    for seed in range(5):
        chapter = chapters.begin(NAME, parameters.NOTEBOOKS[NAME](seed=seed).model_dump())
        chapter.claim("kw-c12", holds=seed < 4, measured={"ratio": 0.1 * seed})
        chapter.finish()
    found = {r["id"]: r for r in ledger.build(notebook_folder=places / "notebooks")}["kw-c12"]
    assert (found["state"], found["n"], found["scale"]) == ("partly", 5, "book")
    assert found["measured"]["ratio"]["mean"] == pytest.approx(0.2)


# The images that several chapters share


SHARING = ("02_kw_calibration", "03_kw_distillation", "04_kw_correspondence", "08_udfc")


@pytest.fixture
def little(tiny, tmp_path):
    """A tiny network, and parameters for images that take no time."""
    config = parameters.KWCalibration(images=10, synthesis_batch=4, synthesis_steps=1, precision="float32")
    return tiny().eval(), config


def test_images_are_made_once_and_read_by_the_next_chapter(little, monkeypatch):
    net, config = little
    made = chapters.calibration_images(net, config, "bns")
    monkeypatch.setattr(synthesis, "synthesize", None)  # whoever would make images again fails
    other = parameters.KWDistillation(**config.model_dump(include=set(parameters.KWImages.model_fields)))
    again = chapters.calibration_images(net, other, "bns")
    assert len(made) == 10 and torch.equal(made.pixels, again.pixels) and made.name == "BNS"
    assert len(list((files.BUILD / "images").iterdir())) == 1


def test_two_settings_never_overwrite_each_other(little, tiny):
    net, config = little
    torch.manual_seed(1)
    trained = tiny().eval()
    variants = [
        (net, config, "bns", 1.0),
        (net, config, "inception", 1.0),
        (net, config, "bns", 0.375),
        (trained, config, "bns", 1.0),
    ]
    for change in ({"synthesis_steps": 2}, {"rate": 0.2}, {"copies": 2}, {"seed": 1}, {"synthesis_batch": 3}):
        variants.append((net, config.model_copy(update=change), "bns", 1.0))
    paths = [chapters.images_path(*variant) for variant in variants]
    assert len(set(paths)) == len(variants)
    first = chapters.calibration_images(*variants[0]).pixels
    for variant in variants[1:]:
        chapters.calibration_images(*variant)
    assert torch.equal(chapters.calibration_images(*variants[0]).pixels, first)
    assert len(list((files.BUILD / "images").iterdir())) == len(variants)


def test_changed_code_makes_other_images(little, monkeypatch):
    before = chapters.images_path(*little, "bns")
    monkeypatch.setattr(chapters, "code_hash", lambda module: f"{module}, changed")
    assert chapters.images_path(*little, "bns") != before


def test_more_images_of_a_kind_complete_the_same_file(little):
    net, config = little
    few = chapters.calibration_images(net, config, "bns", count=4)
    more = chapters.calibration_images(net, config, "bns", count=8)
    assert torch.equal(more.pixels[:4], few.pixels) and len(more) == 8
    assert len(list((files.BUILD / "images").iterdir())) == 1


@pytest.mark.parametrize("scheme", ["inception", "bns", "bns_inception"])
def test_the_chapters_of_the_book_share_their_images(scheme):
    made = [chapters.synthesis_config(parameters.resolve(name, "book"), scheme) for name in SHARING]
    assert made == [made[0]] * len(SHARING)


def test_an_unknown_source_is_answered_with_those_there_are(little):
    with pytest.raises(DataFreeError, match="'bnss' is not known; choose one of real, bns"):
        chapters.calibration_images(*little, "bnss")


def test_a_part_of_generated_images_is_spread_over_all():
    whole = generated(torch.arange(10.0).view(10, 1, 1, 1).expand(-1, 3, 2, 2) / 10, "x")
    assert (chapters.part(whole, 4).pixels[:, 0, 0, 0] * 10).round().tolist() == [0, 3, 6, 9]
    assert chapters.part(whole, 10) is whole
