"""datafree.compress: what it returns, what it leaves alone, and what it refuses before any work."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import datafree
from datafree import KnowledgeWithin
from datafree.book import parameters
from datafree.config import validate
from datafree.core import quantized
from datafree.core.flops import count_macs, count_parameters, weight_bytes
from datafree.core.metrics import outputs
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash

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
    assert report["method"] == "KnowledgeWithin" and report["images"] == "G"
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
    with pytest.raises(DataFreeError, match="compress got a .*; give one of the configurations KnowledgeWithin"):
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
