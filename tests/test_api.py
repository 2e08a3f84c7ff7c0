"""datafree.compress: what it returns, leaves alone, and refuses before any work; the register; reading back; evaluating."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import datafree
from datafree import KnowledgeWithin, api, cli, papers
from datafree.book import parameters
from datafree.config import validate
from datafree.core import metrics, quantized
from datafree.core.flops import count_macs, count_parameters, weight_bytes
from datafree.core.metrics import outputs
from datafree.core.register import method
from datafree.data.images import generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import load_network, read_state, state_hash

QUICK = dict(images=6, synthesis_steps=2, copies=1, steps=2, batch=8)


def noise(count=12):
    return generated(torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)), "noise")


@pytest.fixture
def no_work(monkeypatch):
    """Fail if images are made: what is refused must be refused before."""

    def never(*_, **__):
        raise AssertionError("images were made before the mistake was told")

    monkeypatch.setattr("datafree.papers.knowledge_within.calibration.image_set", never)


@pytest.mark.parametrize("scheme", ["gaussian", "inception", "bns", "bns_inception"])
def test_every_scheme_gives_a_calibrated_network_and_leaves_the_model_alone(tiny, scheme):
    model = tiny().eval()
    before, modes = state_hash(model), [m.training for m in model.modules()]
    result = datafree.compress(model, KnowledgeWithin(scheme=scheme, **QUICK))
    assert state_hash(model) == before and [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert not any("forward" in m.__dict__ for m in model.modules())
    layers = quantized.quantized_layers(result.model)
    assert [name for name, _ in layers] == ["conv", "linear"]
    assert all(layer.high > layer.low for _, layer in layers)
    assert outputs(result.model, noise()).isfinite().all()


def test_the_report_counts_what_was_done(tiny):
    model, config = tiny(), KnowledgeWithin(weight_bits=2, act_bits=4, edge_bits=8, scheme="gaussian", **QUICK)
    result = datafree.compress(model, config)
    report = result.report
    assert report["method"] == "knowledge_within" and report["shape"] == [3, 32, 32]
    assert report["images"] == "G"
    assert KnowledgeWithin(**report["config"]) == config
    assert report["parameters"] == count_parameters(model)
    assert report["bytes_float"] == 4 * report["parameters"]
    assert report["bytes"] == weight_bytes(result.model) < report["bytes_float"]
    assert report["macs"] == count_macs(model)
    assert report["seconds"] > 0 and report["peak_memory_mb"] > 50


def test_given_images_take_the_place_of_generated_ones(tiny, no_work):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    result = datafree.compress(model, KnowledgeWithin(**QUICK), noise(), shape=(3, 8, 8))  # no BatchNorm is needed
    assert result.report["images"] == "given" and result.report["macs"] == 4 * 36 * 27 + 8


def test_more_bits_come_closer_to_the_float_network(tiny):
    model = tiny().eval()
    wanted = outputs(model, noise())
    errors = []
    for bits in (2, 4, 8):
        config = KnowledgeWithin(weight_bits=bits, act_bits=bits, **QUICK)
        errors.append((outputs(datafree.compress(model, config, noise()).model, noise()) - wanted).norm())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05 * wanted.norm()


def test_the_same_seed_gives_the_same_network(tiny):
    model = tiny()
    ranges = []
    for seed in (1, 1, 2):
        result = datafree.compress(model, KnowledgeWithin(seed=seed, **QUICK))
        ranges.append(torch.stack([layer.high for _, layer in quantized.quantized_layers(result.model)]))
    torch.testing.assert_close(ranges[0], ranges[1])
    assert not torch.allclose(ranges[0], ranges[2])


def network_without(what: str) -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)]
    if what == "BatchNorm":
        layers = [Normalize(), *[x for x in layers if not isinstance(x, nn.BatchNorm2d)]]
    return nn.Sequential(*layers)


def test_networks_without_what_generation_needs_are_refused(no_work):
    with pytest.raises(DataFreeError, match="has no BatchNorm layers"):
        datafree.compress(network_without("BatchNorm"), KnowledgeWithin(**QUICK))


@pytest.mark.parametrize("scheme", ["gaussian", "bns"])
def test_networks_without_normalisation_are_refused(scheme):
    with pytest.raises(DataFreeError, match="has no datafree.networks.blocks.Normalize layer"):
        datafree.compress(network_without("Normalize"), KnowledgeWithin(scheme=scheme, **QUICK))


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(4, 4, 2), nn.Conv1d(4, 4, 1), nn.Conv3d(4, 4, 1), nn.LSTM(4, 4)])
def test_layers_that_are_not_supported_are_named(tiny, no_work, layer):
    model = tiny()
    model.odd = nn.Sequential(layer)
    with pytest.raises(DataFreeError, match="layer 'odd.0' is of a kind that is not supported"):
        datafree.compress(model, KnowledgeWithin(**QUICK))


@pytest.mark.parametrize("config", [None, {"weight_bits": 4}, parameters.Start(), KnowledgeWithin])
def test_other_configurations_are_refused(tiny, no_work, config):
    with pytest.raises(DataFreeError, match="compress got a .*; give one of the configurations .*KnowledgeWithin"):
        datafree.compress(tiny(), config)


@pytest.mark.parametrize("model", [None, "resnet20", {"conv.weight": torch.zeros(1)}])
def test_what_is_no_module_is_refused(no_work, model):
    with pytest.raises(DataFreeError, match="as model; give a torch.nn.Module"):
        datafree.compress(model, KnowledgeWithin(**QUICK))


@pytest.mark.parametrize(
    "values",
    [
        {"bits": 4},
        {"weight_bits": "4"},
        {"weight_bits": 4.0},
        {"weight_bits": True},
        {"weight_bits": float("nan")},
        {"weight_bits": 1},
        {"act_bits": 17},
        {"scheme": "bn"},
        {"images": 0},
        {"steps": -1},
        {"per_channel": 1},
        {"seed": None},
    ],
)
def test_the_configuration_is_strict(values):
    name = next(iter(values))
    with pytest.raises(ValidationError):
        KnowledgeWithin(**values)
    with pytest.raises(DataFreeError, match=f"^KnowledgeWithin: parameter '{name}': "):
        validate(KnowledgeWithin, values)


def test_the_configuration_is_frozen():
    with pytest.raises(ValidationError):
        KnowledgeWithin().weight_bits = 8


# Reading back -----------------------------------------------------------------------------------------------------

SHORT = {
    "knowledge_within": ("resnet20", ["scheme=gaussian", "images=16", "steps=1", "batch=16"]),
    "layer_wise": ("mobilenet_v2_small", ["samples=50", "grid=5"]),
    "layer_wise_pruning": ("mobilenet_v2_small", ["steps=2", "sparsity=0.3"]),
    "udfc": ("resnet20", ["prune_ratio=0.5", "weight_bits=4", "repair=gaussian"]),
    "frandi": (
        "resnet20",
        ["reduction=3", "candidates=3", "synthesis.images=4", "synthesis.steps=2", "recovery.steps=2"],
    ),
    "frandi_quantization": ("slim_vgg", ["synthesis.images=4", "synthesis.steps=2", "recovery.steps=1"]),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Method -> (network, the two files, the compressed network as the library returns it)."""
    place, made = tmp_path_factory.mktemp("written"), {}

    def make(method):
        if method not in made:
            name, pairs = SHORT.get(method, ("resnet20", []))
            out = place / f"{method}.safetensors"
            flags = [f for pair in pairs for f in ("-p", pair)]
            done = CliRunner().invoke(cli.app, ["compress", name, "--method", method, "--out", str(out), *flags])
            assert done.exit_code == 0 and "times fewer operations" in done.output, done.output
            made[method] = name, out, out.with_suffix(".json")
        return made[method]

    return make


def test_only_methods_that_there_are_have_short_settings():
    assert set(SHORT) <= set(api.METHODS)


@pytest.mark.parametrize("method", api.METHODS)
def test_the_network_read_back_is_the_one_that_was_made(written, method):
    name, weights, path = written(method)
    report = api.read_report(path)
    again = api.load_compressed(name, weights, path)
    x = load_images("cifar10-stub").floats()[:20]
    config = api.METHODS[method].config(**report["config"])
    made = datafree.compress(load_network(name), config).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), made(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", ["udfc", "frandi", "layer_wise"])
def test_weights_of_another_method_are_refused(written, method):
    other = written("knowledge_within")
    name, _, path = written(method)
    with pytest.raises(DataFreeError, match="do not fit|does not describe"):
        api.load_compressed(name, other[1], path)


@pytest.mark.parametrize("ranks", [{"no.such.layer": 3}, {"layer1.0.conv1": 10_000}, [1, 2], "x"])
def test_hostile_reports_are_refused(written, tmp_path, ranks):
    name, weights, path = written("frandi")
    (tmp_path / "r.json").write_text(json.dumps(json.loads(path.read_text()) | {"ranks": ranks}))
    with pytest.raises(DataFreeError):
        api.load_compressed(name, weights, tmp_path / "r.json")


def test_damaged_weights_are_named(written, tmp_path):
    name, weights, path = written("udfc")
    state = read_state(weights)
    save_file(
        {k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(DataFreeError, match="NaN"):
        api.load_compressed(name, tmp_path / "w.safetensors", path)


def test_what_the_library_writes_it_reads_back(tiny, tmp_path):
    result = datafree.compress(tiny(), datafree.UDFC(prune_ratio=0.5, weight_bits=4), shape=(3, 8, 8))
    out = datafree.save_compressed(result, tmp_path / "small.safetensors")
    again = datafree.load_compressed("tiny", out, out.with_suffix(".json"))
    torch.testing.assert_close(outputs(again, noise()), outputs(result.model, noise()))


# The register -----------------------------------------------------------------------------------------------------

FIFTH = '''
"""A fifth paper: the last `n` channels of the last layer fall silent."""

import copy

from pydantic import Field
from torch import nn

from datafree.config import Strict
from datafree.core.register import Result, method


class Fifth(Strict):
    n: int = Field(1, ge=1, description="how many")


def biased(model):
    model.linear.extra = nn.Parameter(model.linear.bias.clone())
    return model


@method("fifth", paper="A Fifth Paper", about="silence", structure=biased)
def compress(model: nn.Module, config: Fifth) -> Result:
    student = biased(copy.deepcopy(model))
    student.linear.bias.data[-config.n :] = -9.0
    return Result(student, {"silent": config.n})
'''


@pytest.fixture
def fifth(tmp_path, monkeypatch):
    """A folder of a paper that is not in the library, at the place where the papers are looked for."""
    (tmp_path / "papers" / "fifth_paper").mkdir(parents=True)
    (tmp_path / "papers" / "fifth_paper" / "__init__.py").write_text("")
    (tmp_path / "papers" / "fifth_paper" / "silence.py").write_text(FIFTH)
    monkeypatch.setattr(papers, "__path__", [*papers.__path__, str(tmp_path / "papers")])
    importlib.invalidate_caches()
    api.find_methods()
    yield
    del api.METHODS["fifth"]
    for name in [name for name in sys.modules if name.startswith("datafree.papers.fifth_paper")]:
        del sys.modules[name]
    del papers.fifth_paper


def test_a_fifth_paper_costs_one_folder(fifth, tiny, run_cli, tmp_path):
    """It is listed, set, run, written, read back and evaluated, and no other file knows of it."""
    assert "fifth: silence (A Fifth Paper)" in run_cli("methods")[1]
    assert run_cli("methods", "fifth")[1] == "  n = 1  (how many)\n"
    assert "Fifth" in dir(datafree)
    result = datafree.compress(tiny(), datafree.Fifth(n=3))
    assert result.report["method"] == "fifth" and result.report["silent"] == 3
    with pytest.raises(DataFreeError, match="Fifth uses no images"):
        datafree.compress(tiny(), datafree.Fifth(), noise())

    save_file(tiny().state_dict(), tmp_path / "tiny.safetensors")
    start, out = tmp_path / "tiny.safetensors", tmp_path / "small.safetensors"
    code, _, err = run_cli("compress", "tiny", "--method", "fifth", "--weights", start, "--out", out, "-p", "n=9")
    assert code == 0, err
    code, text, err = run_cli("evaluate", "tiny", "--weights", out, "--report", out.with_suffix(".json"))
    assert code == 0 and "top-1 10.00 %" in text, "nine classes are never chosen"
    code, _, err = run_cli("evaluate", "tiny", "--weights", out)
    assert code == 2 and "linear.extra" in err, "without its report the structure is not known"


def test_without_its_folder_it_is_gone(run_cli):
    code, _, err = run_cli("methods", "fifth")
    assert code == 2 and "method 'fifth' is not known" in err


def test_a_name_or_a_configuration_taken_twice_is_refused():
    def compress(model, config: KnowledgeWithin):
        raise AssertionError

    for name in ("udfc", "knowledge_within", "another"):
        with pytest.raises(ValueError, match="is registered twice"):
            method(name, paper="", about="", structure=nn.Identity)(compress)
    assert "another" not in api.METHODS


# The top of the library -------------------------------------------------------------------------------------------


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_costs_nothing():
    loaded = run_python("import datafree, sys; from datafree import DataFreeError, errors; print(*sys.modules)").split()
    assert "datafree.errors" in loaded
    assert not {"torch", "numpy", "pydantic", "yaml", "datafree.api", "datafree.config"} & set(loaded)


def test_what_the_top_names_is_found_at_first_use():
    """In a process of its own, where nothing was imported before."""
    code = "import datafree; print(datafree.UDFC.__module__, datafree.load('resnet20').training); datafree.nothing_such"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "datafree.papers.udfc.compression False\n"
    assert "AttributeError: module 'datafree' has no attribute 'nothing_such'" in done.stderr
    assert "UDFC" in done.stderr.splitlines()[-1], "what can be set is named"


def test_the_top_lists_calls_and_configurations():
    calls = {"compress", "evaluate", "images", "load", "load_compressed", "save_compressed", "DataFreeError", "Result"}
    configurations = {m.config.__name__ for m in api.METHODS.values()}
    assert {"FRanDI", "KnowledgeWithin", "LayerWise", "UDFC"} <= configurations and calls | configurations <= set(
        dir(datafree)
    )
    assert all(getattr(datafree, name) for name in dir(datafree))
    assert datafree.images is load_images and datafree.load is load_network and datafree.compress is api.compress


# Evaluating -------------------------------------------------------------------------------------------------------


def test_evaluate_gives_both_accuracies():
    net, images = datafree.load("resnet20"), datafree.images("cifar10-stub", split="test")[:200]
    found = datafree.evaluate(net, images)
    assert found == {"top1": metrics.top1(net, images), "top5": metrics.top5(net, images)}
    assert 80 < found["top1"] < found["top5"] <= 100


def test_evaluate_measures_regions_where_pixels_have_labels():
    net, scenes = datafree.load("segmenter"), load_images("scenes", limit=4)
    assert datafree.evaluate(net, scenes) == {"mean_iou": metrics.mean_iou(net, scenes)}


def test_images_of_other_classes_are_refused(tiny):
    with pytest.raises(DataFreeError, match="has 10 classes, the network 3; give images of its classes"):
        datafree.evaluate(tiny(classes=3), load_images("cifar10-stub"))
