"""Multiply-accumulates against torch's own counter, bytes against a count by hand."""

import pytest
import torch
from conftest import seeded, uneven_network
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datafree.core import quantized
from datafree.core.flops import count_macs, weight_bytes
from datafree.networks.zoo import build_network
from datafree.papers.layerwise import equalization

LAYERS = {
    "conv": (nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8)), "strided": (nn.Conv2d(3, 8, 3, stride=2), (3, 9, 7)),
    "grouped": (nn.Conv2d(8, 12, (1, 3), groups=4), (8, 4, 4)), "depthwise": (nn.Conv2d(8, 8, 3, groups=8), (8, 5, 5)),
    "dilated": (nn.Conv2d(3, 4, 3, dilation=2), (3, 9, 9)), "linear": (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)),
}  # fmt: skip


def counted_by_torch(model, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", LAYERS)
def test_layers_count_as_torch_counts(name):
    layer, shape = LAYERS[name]
    assert count_macs(layer, shape) == counted_by_torch(layer, shape) > 0


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_small"])
def test_networks_count_as_torch_counts_prepared_and_converted_too(name):
    net = build_network(name).eval()
    expected = counted_by_torch(net, (3, 32, 32))
    assert count_macs(net) == expected
    x = torch.rand(4, 3, 32, 32, generator=seeded())
    student = quantized.calibrate(quantized.prepare(net, 4, 4), [x])
    for made in (student, quantized.convert(student)):
        assert count_macs(made) == expected == counted_by_torch(made, (3, 32, 32))


def test_buffers_do_not_count():
    net = uneven_network(nn.SiLU, double=False)
    found = equalization.equalize(net).model
    names = [n for n, m in found.named_modules() if isinstance(m, equalization.BufferedLayer)]
    x = torch.rand(4, 3, 16, 16, generator=seeded())
    for inside in ("", ".inner"):
        student = quantized.calibrate(quantized.prepare(found, 4, 4, names=[n + inside for n in names]), [x])
        assert count_macs(student, (3, 16, 16)) == count_macs(net, (3, 16, 16)) == counted_by_torch(net, (3, 16, 16))


def test_bytes_of_plain_layers_with_rounded_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))  # 108 + 4, 8 + 2
    assert weight_bytes(net) == 4 * 122
    assert weight_bytes(net, {"0": 6}) == 108 * 6 / 8 + 4 * 14
    assert weight_bytes(net, {"0": 6, "2": 4}) == 108 * 6 / 8 + 8 * 4 / 8 + 4 * 6


def test_bytes_are_the_same_before_and_after_conversion():
    net = build_network("resnet20").eval()
    student = quantized.prepare(net, 3, 8, edge_bits=8)
    assert weight_bytes(student) == weight_bytes(quantized.convert(student)) < weight_bytes(net) / 4
