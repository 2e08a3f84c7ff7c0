"""A run of a chapter: its parameters, its images, and the record it leaves."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import RECORDED

from datafree import files
from datafree.book import chapters, parameters
from datafree.core import metrics
from datafree.data.images import ImageSet, generated, pixels_hash
from datafree.errors import DataFreeError
from datafree.evidence import ledger
from datafree.evidence.criteria import Run
from datafree.evidence.fingerprint import fingerprint
from datafree.evidence.measured import unpack
from datafree.evidence.record import digest, read, read_all
from datafree.papers.knowledge_within import synthesis

NAME = RECORDED

pytestmark = pytest.mark.usefixtures("places")


def namespace(notebook=NAME, **changes):
    return parameters.NOTEBOOKS[notebook]().model_dump() | {"torch": torch, "other": 3} | changes


def start(**changes):
    return chapters.begin(NAME, namespace(**changes))


def few_images(count=11, name="few"):
    """Two classes; labels alternate."""
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % 2, ["dark", "light"], name)


def test_a_run_leaves_one_whole_record(places, capsys):
    chapter = start(seed=3)
    chapter.metric("jkl", torch.tensor(0.25))
    chapter.metric("curve", np.array([1.0, 2.0]))
    chapter.finish()
    folder = places / "_build" / "records" / "book" / NAME
    assert [p.name for p in folder.iterdir()] == ["seed3.json"]
    record = json.loads((folder / "seed3.json").read_text())
    assert record["metrics"] == {"jkl": 0.25, "curve": [1.0, 2.0]} and record["hits"] == {}
    assert record["command"] == f"datafree run {NAME} --profile book --seed 3"
    assert record["seconds"] >= 0 and record["cpu_seconds"] >= 0 and record["peak_memory_mb"] > 10
    assert record["provenance"]["packages"]["torch"] and record["overrides"] == {}
    assert record["fingerprint"] == fingerprint(NAME, record["parameters"]) and record["digest"] == digest(record)
    assert "claims" not in record and "additions" not in record, "a chapter measures, it does not judge"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{NAME} · profile book · seed 3 · commit ")
    assert lines[1] == f"{NAME}: record written." and len(lines) == 2


def test_what_finish_wrote_is_what_read_all_reads():
    chapter = start()
    chapter.metric("jkl", 0.5)
    chapter.finish()
    (record,) = read_all()
    assert record["metrics"] == {"jkl": 0.5} and record["path"].name == "seed0.json"


def test_an_accuracy_keeps_its_images(tiny):
    chapter, net, images = start(), tiny(2).eval(), few_images()
    value = chapter.accuracy(("top1", "4w4a", "BNS"), net, images)
    record = chapter.record()
    assert record["metrics"] == {"top1": {"4w4a": {"BNS": value}}}
    right = unpack(record["hits"]["top1/4w4a/BNS"])
    assert right.tolist() == metrics.hits(net, images)[0].tolist() and value == pytest.approx(100 * right.mean())
    assert record["inputs"][f"few, {len(images)} images"] == pixels_hash(images)
    assert Run(record).accuracy("top1", "4w4a", "BNS").value == pytest.approx(value), "a criterion finds it"


def test_repetitions_are_kept_in_a_list(tiny):
    chapter, images = start(), few_images()
    values = [chapter.accuracy(("top1", k, "BNS"), tiny(2).eval(), images) for k in range(3)]
    values += [chapter.share(("shares", k), torch.arange(11) < k, images) for k in (0, 1)]
    record = chapter.record()
    assert record["metrics"]["top1"] == [{"BNS": value} for value in values[:3]]
    assert record["metrics"]["shares"] == [0.0, pytest.approx(100 / 11)]
    assert set(record["hits"]) == {"top1/0/BNS", "top1/1/BNS", "top1/2/BNS", "shares/0", "shares/1"}


def test_agreement_needs_no_labels(tiny):
    chapter, net = start(), tiny(2).eval()
    unlabelled = dataclasses.replace(few_images(), labels=torch.full((11,), -1))
    assert chapter.agreement(("same",), net, net, unlabelled) == 100.0
    assert unpack(chapter.record()["hits"]["same"]).all()
    with pytest.raises(DataFreeError, match="without labels"):
        chapter.accuracy(("top1",), net, unlabelled)


def test_inputs_are_named_with_their_hashes(tiny):
    chapter, net = start(), tiny(2).eval()
    for name, count in (("few", 11), ("more", 12)):
        chapter.accuracy(("top1", name), net, few_images(count, name))
    record = chapter.record()
    few, more = "few, 11 images", "more, 12 images"
    assert set(record["inputs"]) >= {few, more} and all(len(v) == 64 for v in record["inputs"].values())
    assert record["inputs"][few] != record["inputs"][more]


def test_the_runner_chooses_the_place(places, monkeypatch):
    monkeypatch.setenv("DATAFREE_RECORD", str(places / "here" / "r.json"))
    start().finish()
    assert read(places / "here" / "r.json")["notebook"] == NAME
    assert not (places / "_build").exists()


def test_changed_parameters_make_a_trial():
    chapter = start(steps=3, weights="/home/somebody/net 1.pt")
    chapter.finish()
    content = (files.BUILD / "runs" / NAME / "seed0.json").read_text()
    assert "somebody" not in content
    record = json.loads(content)
    assert record["overrides"] == {"steps": 3, "weights": "PATH/net 1.pt"}
    assert record["command"].endswith("-p 'weights=PATH/net 1.pt' -p steps=3")
    assert read_all() == []


def test_what_the_paper_profile_leaves_to_the_user_is_no_change():
    name = "12_frandi_segmentation"
    config = parameters.resolve(name, "paper", {"weights": "/data/net.pt", "root": "/data/voc"})
    record = chapters.begin(name, config.model_dump()).record()
    assert record["overrides"] == {} and record["profile"] == "paper"
    assert "-p weights=PATH/net.pt -p root=PATH/voc" in record["command"]


def test_the_fingerprint_depends_on_parameters_but_not_on_folders():
    prints = [
        start(**c).record()["fingerprint"] for c in ({}, {"steps": 3}, {"weights": "/a/x.pt"}, {"weights": "/b/x.pt"})
    ]
    assert prints[2] == prints[3] and len(set(prints)) == 3


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


def test_metrics_refuse_what_is_no_number():
    chapter = start()
    with pytest.raises(DataFreeError, match="'loss' is nan"):
        chapter.metric("loss", torch.tensor([1.0, float("nan")]))
    with pytest.raises(DataFreeError, match="'a.b' is inf"):
        chapter.metric("a", {"b": [1.0, torch.tensor(torch.inf)]})
    with pytest.raises(DataFreeError, match="'path' is a PosixPath|'path' is a WindowsPath"):
        chapter.metric("path", files.ROOT)
    assert chapter.record()["metrics"] == {}


def test_a_record_that_cannot_be_written_is_one_sentence(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("DATAFREE_RECORD", str(places / "file" / "r.json"))
    with pytest.raises(DataFreeError, match="cannot write"):
        start().finish()


def test_a_real_chapter_reaches_the_ledger(places, gain):
    """From begin() to the state, through the files."""
    for seed in range(5):
        chapter = chapters.begin(NAME, parameters.NOTEBOOKS[NAME](seed=seed).model_dump())
        chapter.metric("gain", 1 + 0.1 * seed)
        chapter.finish()
    found = {r["id"]: r for r in ledger.build(notebook_folder=places / "notebooks")}["kw-c12"]
    assert (found["state"], found["n"], found["scale"], found["stale"]) == ("reproduced", 5, "book", False)
    assert found["effect"]["mean"] == pytest.approx(1.2)


# The images that several chapters share


SHARING = ("02_kw_calibration", "03_kw_distillation", "04_kw_correspondence")


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
    monkeypatch.setattr(chapters, "module_hash", lambda module: f"{module}, changed")
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


def test_another_network_takes_the_first_place():
    config = parameters.resolve("06_lw_quantization", "reduced", {"mean": "0.5 0.5 0.5", "std": "0.5 0.5 0.5"})
    other = chapters.also(config, config.third, config.third_weights, config.third_data)
    assert (other.model, other.weights, other.data) == ("mobilenet_v1_0.25", "mobilenet_v1_0.25", "imagenet-val")
    assert (other.mean, other.std) == ("", "") and other.test_images == config.test_images
    embedded = chapters.also(config, "slim_vgg")
    assert (embedded.weights, embedded.data) == ("", config.data)
    assert chapters.also(config, "resnet18").weights == "torchvision"
