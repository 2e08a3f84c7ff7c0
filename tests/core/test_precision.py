"""Precision of passes, and putting a module in the place of another."""

import pytest
import torch
from torch import nn

from datafree.core import precision
from datafree.core.graph import put_module
from datafree.core.precision import autocast, uses_bf16
from datafree.networks.weights import load_network


@pytest.mark.parametrize("processor", [True, False])
def test_the_named_precision_is_taken_and_auto_asks_the_processor(monkeypatch, processor):
    monkeypatch.setattr(precision, "bf16_pays", lambda device: processor and device == "cpu")
    assert uses_bf16("bf16") and not uses_bf16("float32")
    assert uses_bf16("auto") is processor and not uses_bf16("auto", "cuda")


@pytest.mark.parametrize("able", [True, False])
def test_auto_asks_the_card_the_network_is_on(monkeypatch, able):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: able)
    assert uses_bf16("auto", torch.device("cuda", 0)) is able and not uses_bf16("auto", "mps")


def test_autocast_multiplies_in_bf16_only_where_asked():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    for enabled, kind in ((True, torch.bfloat16), (False, torch.float32)):
        with torch.no_grad(), autocast(enabled):
            assert layer(x).dtype == kind


def test_a_module_deep_in_a_network_is_replaced_and_runs():
    model = load_network("resnet20").eval()
    name = next(n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and "." in n)
    put_module(model, name, nn.Identity())
    assert isinstance(model.get_submodule(name), nn.Identity)
    assert model(torch.rand(2, 3, 32, 32)).isfinite().all()
