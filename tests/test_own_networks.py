"""Any reader's network: at 16 bits, or with nothing pruned, it is the float one, or a sentence says why it cannot be."""

import json

import pytest
import torch
from odd_networks import FAMILIES, ODD, odd, of_torchvision

import datafree
from datafree import files
from datafree.core.graph import trace
from datafree.core.preflight import checked
from datafree.core.quantized import rounders
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks import own
from datafree.papers.frandi.factorization import Factorizer
from datafree.papers.frandi.magnitude import Pruner
from datafree.papers.layerwise import quantization


def unsplit(model, shape):
    """Every convolution that FRanDI splits, at full rank: nothing is cut away."""
    factors = Factorizer(model, shape)
    return factors.network({name: layer.full_rank for name, layer in factors.layers.items()})


def unmasked(model, shape):
    """Every convolution that FRanDI prunes, with all of its weights."""
    pruner = Pruner(model, shape)
    return pruner.network({name: layer.full_rank for name, layer in pruner.layers.items()})


HARMLESS = {
    "knowledge_within": datafree.KnowledgeWithin(
        weight_bits=16, act_bits=16, images=8, steps=1, batch=64, chunk=64, augment=False
    ),
    "layer_wise": datafree.LayerWise(weight_bits=16, act_bits=16, grid=8, samples=64, correct=False, absorb=False),
    "layer_wise_pruning": datafree.LayerWisePruning(start=-40.0, steps=1, rate=1e-9, decay=0.0, batch=2, size=1),
    "udfc": datafree.UDFC(prune_ratio=0.0),
    "frandi, low rank": unsplit,
    "frandi, masks": unmasked,
}
TOLERANCE = 0.02
"""Of the largest score: what lies beyond the ranges is clipped, at 16 bits too."""
LIGHT = (
    "resnet18", "densenet121", "googlenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5",
    "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_1",
)  # fmt: skip
"""Families that take no more than a second or two."""
# 16 bits of the layer-wise method are tested below: its ranges come from BatchNorm alone, so not they alone decide.
DEEP = [(name, "knowledge_within") for name in FAMILIES]
DEEP += [(name, "layer_wise_pruning") for name in LIGHT]
DEEP += [(name, "frandi, low rank") for name in ("densenet121", "googlenet", "squeezenet1_1", "mobilenet_v2")]
DEEP += [(name, "frandi, masks") for name in ("mobilenet_v2", "shufflenet_v2_x0_5", "efficientnet_b0")]
DEEP += [(name, method) for name in ("resnet18", "mobilenet_v2") for method in ("udfc",)]


def harmless(model, method, shape, images):
    """`model` after that method, which was told to change nothing."""
    how = HARMLESS[method]
    if callable(how):
        return how(model, shape)
    given = {"images": generated(images, "noise")} if method == "knowledge_within" else {}
    return datafree.compress(model, how, shape=shape, **given).model


def outcome(model, method, shape):
    """How far the harmless compression is from float, as a share of the largest score, or the sentence that says no."""
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(images)
    try:
        checked(model, shape)
        made = harmless(model, method, shape, images)
    except DataFreeError as error:
        return str(error)
    with torch.no_grad():
        return float((made(images) - wanted).abs().max() / wanted.abs().max())


NONE = "no convolution to compress"
REFUSED = {
    ("groupnorm", "layer_wise"): "no BatchNorm",
    ("groupnorm", "layer_wise_pruning"): "no BatchNorm",
    ("groupnorm", "udfc"): "GroupNorm is not understood",
    ("no_batchnorm", "layer_wise"): "no BatchNorm",
    ("no_batchnorm", "layer_wise_pruning"): "no BatchNorm",
    ("branching", "layer_wise"): "cannot be traced",
    ("branching", "layer_wise_pruning"): "cannot be traced",
    ("branching", "udfc"): "cannot be traced",
    ("vit_b_16", "knowledge_within"): "is not called",
    ("swin_t", "knowledge_within"): "is not called",
    ("squeezenet1_1", "layer_wise_pruning"): "no BatchNorm",
    ("mobilenet_v2", "frandi, low rank"): NONE,
    **{("transposed", method): "must be Conv2d" for method in HARMLESS},
    **{(name, "frandi, low rank"): NONE for name in ("depthwise", "grouped", "one_channel", "shared", "branching")},
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


@pytest.mark.parametrize("name", LIGHT)
def test_an_equalised_family_is_the_same_function(name):
    """In double precision: deep random networks make much of the smallest rounding, but nothing of equalisation."""
    model, side = of_torchvision(name, FAMILIES[name]).double(), FAMILIES[name]
    images = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = quantization.equalized(model, trace(model), datafree.LayerWise(absorb=False)).model
    with torch.no_grad():
        wanted = model(images)
        assert (made(images) - wanted).abs().max() < 1e-10 * wanted.abs().max()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small", "slim_vgg"])
def test_at_16_bits_only_values_beyond_the_ranges_of_batchnorm_differ(name):
    """Layer-wise ranges are six of BatchNorm's deviations; what is farther off is clipped, however many bits there are."""
    model = datafree.load(name)
    images = load_images("cifar10-stub").floats()[::40].contiguous()
    config = datafree.LayerWise(weight_bits=16, act_bits=16, ranges="six_sigma", correct=False, absorb=False)
    made = datafree.compress(model, config).model
    beyond = []
    for rounder in rounders(made):
        rounder.register_forward_pre_hook(lambda m, x: beyond.append(((x[0] < m.low) | (x[0] > m.high)).any().item()))
    with torch.no_grad():
        wanted = model(images)
        made(images)
        assert any(beyond)
        for rounder in rounders(made):
            rounder.set_range(4 * rounder.low, 4 * rounder.high)
        assert (made(images) - wanted).abs().max() < TOLERANCE * wanted.abs().max()


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


def test_the_network_of_chapter_15_is_as_good_as_its_record_says():
    place = files.STUBS / "own"
    record = json.loads((place / "two_paths.json").read_text())
    settings = {name: record["parameters"][name] for name in ("mean", "std")}
    network = own.load_own(f"{place / 'two_paths.py'}:build", place / "two_paths.safetensors", **settings)
    images = load_images("cifar10-stub")
    assert datafree.evaluate(network, images)["top1"] == pytest.approx(record["test_top1"], abs=2.5)
