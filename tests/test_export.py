"""Networks as files that run without this library."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from datafree import export
from datafree.core import quantized
from datafree.core.quantizer import affine_grid, fake_quantize
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network
from datafree.papers.frandi import factorization
from datafree.papers.udfc.compression import UDFC
from datafree.papers.udfc.compression import compress as udfc

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def images():
    return load_images("cifar10-stub", "test")[slice(0, 500)]


@pytest.fixture(scope="module")
def network():
    return load_network("resnet20")


def simulated(network, images, weight_bits, act_bits, **settings):
    student = quantized.prepare(network, weight_bits, act_bits, **settings)
    return quantized.convert(quantized.calibrate(student, [images.floats()[:100]]))


def run_onnx(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x.contiguous().numpy()})[0]


def top1(scores, images):
    return 100 * float((torch.as_tensor(scores).argmax(1) == images.labels).float().mean())


@pytest.mark.parametrize("weight_bits", [8, 4])
def test_onnxruntime_is_as_right_as_the_simulation(network, images, tmp_path, weight_bits):
    student = simulated(network, images, weight_bits, 8)
    path = export.export(student, tmp_path / "net.onnx")
    with torch.no_grad():
        wanted = student(images.floats())
    assert abs(top1(run_onnx(path, images.floats()), images) - top1(wanted, images)) <= 0.5
    parameters = sum(p.numel() for p in network.parameters())
    assert path.stat().st_size < 2 * parameters  # a byte each, and the graph; float takes four


def small(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip
    x = torch.rand(16, 3, 8, 8)
    return quantized.convert(quantized.calibrate(quantized.prepare(net, **settings), [x])), x


@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (4, 4), (3, 5)])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("zero_on_grid", [True, False])
def test_the_portable_network_is_the_simulated_one(bits, per_channel, zero_on_grid):
    student, x = small(weight_bits=bits[0], act_bits=bits[1], per_channel=per_channel, zero_on_grid=zero_on_grid)
    with torch.no_grad():
        assert torch.allclose(export.portable(student)(x), student(x), atol=1e-4)


def test_onnx_clips_what_lies_beyond_a_narrow_grid(tmp_path):
    student, x = small(weight_bits=4, act_bits=4)
    path = export.export(student, tmp_path / "net.onnx", (3, 8, 8))
    with torch.no_grad():
        wanted = student(3 * x)
    assert np.abs(run_onnx(path, 3 * x) - wanted.numpy()).max() < 0.02 * wanted.abs().max()


def test_levels_are_found_where_a_searched_range_left_the_ends_empty():
    layer = quantized.QuantizedLayer(nn.Linear(40, 2), 4, 8)
    grid = affine_grid(torch.tensor([[-3.0], [-2.0]]), torch.tensor([[3.0], [2.0]]), 4)
    layer.inner.weight.data = fake_quantize(torch.randn(2, 40, generator=torch.Generator().manual_seed(0)), grid)
    layer.converted = True
    found = export.stored_weight(layer, "linear")
    made = (found.levels.float() - found.zero_point[:, None]) * found.scale[:, None]
    assert torch.allclose(made, layer.inner.weight, atol=1e-5)
    assert found.levels.dtype == torch.int8


def test_what_cannot_be_exported_is_said_in_a_sentence(network, images, tmp_path):
    wide, _ = small(weight_bits=16, act_bits=16)
    with pytest.raises(DataFreeError, match="16 bits"):
        export.export(wide, tmp_path / "net.onnx", (3, 8, 8))
    with pytest.raises(DataFreeError, match="must end in"):
        export.export(wide, tmp_path / "net.txt", (3, 8, 8))
    with pytest.raises(DataFreeError, match="was not measured"):
        export.export(quantized.prepare(network, 8, 8), tmp_path / "net.onnx")
    layer = quantized.QuantizedLayer(nn.Linear(40, 2), 4, 8)
    layer.converted = True
    with pytest.raises(DataFreeError, match="16 even levels"):
        export.stored_weight(layer, "linear")


ALONE = """
import sys, torch
path, images, out = sys.argv[1:]
assert not any(name.startswith("datafree") for name in sys.modules)
torch.save(torch.export.load(path).module()(torch.load(images)), out)
assert not any(name.startswith("datafree") for name in sys.modules)
"""


@pytest.mark.parametrize("kind", ["pruned", "factorised"])
def test_a_program_runs_where_the_library_is_not(network, images, tmp_path, kind):
    if kind == "pruned":
        student = udfc(network, UDFC(prune_ratio=0.3)).model
    else:
        split = factorization.Factorizer(network)
        student = split.network(split.uniform(2.0))
    x = images.floats()[:8].contiguous()
    path = export.export(student, tmp_path / "net.pt2")
    torch.save(x, tmp_path / "x.pt")
    (tmp_path / "alone.py").write_text(ALONE)
    places = [tmp_path / "alone.py", path, tmp_path / "x.pt", tmp_path / "y.pt"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, places)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "y.pt"), student(x), atol=1e-4)
