"""Any reader's network: at 16 bits, or with nothing pruned, it is the float one, or a sentence says why it cannot be."""

import json

import pytest
import torch
from odd_networks import FAMILIES, ODD, odd, of_torchvision

import datafree
from datafree.core.preflight import checked
from datafree.data.images import generated
from datafree.errors import DataFreeError

HARMLESS = {
    "knowledge_within": datafree.KnowledgeWithin(
        weight_bits=16, act_bits=16, images=8, steps=1, batch=64, chunk=64, augment=False
    ),
    "layer_wise": datafree.LayerWise(weight_bits=16, act_bits=16, grid=8, samples=64, correct=False, absorb=False),
    "udfc": datafree.UDFC(prune_ratio=0.0),
}
TOLERANCE = 0.02
"""Of the largest score: what lies beyond the ranges is clipped, at 16 bits too."""
# Layer-wise ranges come from BatchNorm alone, and clip the noise that a deep random network makes of real images.
DEEP = [(name, "knowledge_within") for name in FAMILIES]
DEEP += [(name, method) for name in ("resnet18", "mobilenet_v2") for method in ("udfc",)]


def outcome(model, method, shape):
    """How far the harmless compression is from float, as a share of the largest score, or the sentence that says no."""
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    given = {"images": generated(images, "noise")} if method == "knowledge_within" else {}
    with torch.no_grad():
        wanted = model(images)
        try:
            checked(model, shape)
            made = datafree.compress(model, HARMLESS[method], shape=shape, **given).model(images)
        except DataFreeError as error:
            return str(error)
    return float((made - wanted).abs().max() / wanted.abs().max())


REFUSED = {
    ("groupnorm", "layer_wise"): "no BatchNorm",
    ("groupnorm", "udfc"): "GroupNorm is not understood",
    ("no_batchnorm", "layer_wise"): "no BatchNorm",
    ("branching", "layer_wise"): "cannot be traced",
    ("branching", "udfc"): "cannot be traced",
    ("vit_b_16", "knowledge_within"): "is not called",
    ("swin_t", "knowledge_within"): "is not called",
    ("transposed", "knowledge_within"): "must be Conv2d",
    ("transposed", "layer_wise"): "must be Conv2d",
    ("transposed", "udfc"): "must be Conv2d",
}


def judged(found, refused):
    if refused:
        assert isinstance(found, str) and refused in found, found
    else:
        assert not isinstance(found, str), found
        assert found < TOLERANCE


@pytest.mark.parametrize("method", HARMLESS)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_network_stays_what_it_is(name, method):
    shape = (1 if name == "one_channel" else 3, 16, 16)
    judged(outcome(odd(name), method, shape), REFUSED.get((name, method)))


@pytest.mark.parametrize("name, method", DEEP)
def test_a_family_stays_what_it_is(name, method):
    side = FAMILIES[name]
    judged(outcome(of_torchvision(name, side), method, (3, side, side)), REFUSED.get((name, method)))


SOURCE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )

def nothing():
    return 3
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_network_from_a_file_is_compressed_reported_and_exported(run_cli, source, tmp_path):
    name, out = f"{source}:build", tmp_path / "small.safetensors"
    own_input = ["--input", "1x12x12"]
    code, text, err = run_cli(
        "compress", name, "--out", out, "--method", "layer_wise", *own_input, "--mean", "0.5", "--std", "0.2"
    )
    assert code == 0 and "times fewer operations" in text, err
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["mean"] == [0.5] and report["shape"] == [1, 12, 12]
    page = out.with_suffix(".html").read_text()
    assert "Layer-Wise" in page and "5 x 8" in page and "http" not in page and "<script" not in page
    program = tmp_path / "small.pt2"
    code, _, err = run_cli(
        "export", name, "--out", program, "--weights", out, "--report", out.with_suffix(".json"), *own_input
    )
    assert code == 0, err
    assert torch.export.load(program).module()(torch.rand(3, 1, 12, 12)).shape == (3, 5)


@pytest.mark.parametrize(
    "name, more, said",
    [
        ("build", [], "--input"),
        ("build", ["--input", "1x12"], "is no shape of an image"),
        ("build", ["--input", "1x12x12"], "does not normalise its input"),
        ("build", ["--input", "3x12x12", "--mean", "0.5", "--std", "0.2"], "does not take one batch"),
        ("build", ["--input", "1x12x12", "--mean", "x", "--std", "0.2"], "not a number for each channel"),
        ("nothing", ["--input", "1x12x12"], "gives a int"),
        ("missing", ["--input", "1x12x12"], "cannot be built"),
    ],
)
def test_what_is_wrong_with_a_network_is_one_sentence(run_cli, source, tmp_path, name, more, said):
    code, _, err = run_cli("compress", f"{source}:{name}", "--out", tmp_path / "a.safetensors", *more)
    assert code == 2 and said in err and err.count("\n") <= 1, err
