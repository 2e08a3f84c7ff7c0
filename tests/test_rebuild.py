"""What `datafree compress` writes is read back as the same network, for every method."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import datafree
from datafree import api, cli, rebuild
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, read_state

QUICK = {
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
            name, pairs = QUICK[method]
            out = place / f"{method}.safetensors"
            flags = [f for pair in pairs for f in ("-p", pair)]
            done = CliRunner().invoke(cli.app, ["compress", name, "--method", method, "--out", str(out), *flags])
            assert done.exit_code == 0 and "times fewer operations" in done.output, done.output
            made[method] = name, out, out.with_suffix(".json")
        return made[method]

    return make


def test_every_method_of_the_library_has_a_name():
    assert {m.config for m in rebuild.METHODS.values()} == set(api.METHODS)
    assert set(QUICK) == set(rebuild.METHODS)


@pytest.mark.parametrize("method", QUICK)
def test_the_network_read_back_is_the_one_that_was_made(written, method):
    name, weights, path = written(method)
    report = rebuild.read_report(path)
    again = rebuild.compressed(name, weights, path)
    x = load_images("cifar10-stub").floats()[:20]
    config = rebuild.METHODS[method].config(**report["config"])
    made = datafree.compress(load_network(name), config).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(x), made(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("method", ["udfc", "frandi", "layer_wise"])
def test_weights_of_another_method_are_refused(written, method):
    other = written("knowledge_within")
    name, _, path = written(method)
    with pytest.raises(DataFreeError, match="do not fit|does not describe"):
        rebuild.compressed(name, other[1], path)


@pytest.mark.parametrize("ranks", [{"no.such.layer": 3}, {"layer1.0.conv1": 10_000}, [1, 2], "x"])
def test_hostile_reports_are_refused(written, tmp_path, ranks):
    name, weights, path = written("frandi")
    (tmp_path / "r.json").write_text(json.dumps(json.loads(path.read_text()) | {"ranks": ranks}))
    with pytest.raises(DataFreeError):
        rebuild.compressed(name, weights, tmp_path / "r.json")


def test_damaged_weights_are_named(written, tmp_path):
    name, weights, path = written("udfc")
    state = read_state(weights)
    save_file(
        {k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(DataFreeError, match="NaN"):
        rebuild.compressed(name, tmp_path / "w.safetensors", path)
