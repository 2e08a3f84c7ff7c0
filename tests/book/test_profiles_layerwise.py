"""The profile of table I (torchvision's MobileNetV2 with ReLU, ImageNet), exercised on a folder of small pictures."""

import pytest
import torch
from conftest import with_statistics, write_images
from torch import nn

from datafree.book import chapters, parameters
from datafree.core import levels
from datafree.core.metrics import top1
from datafree.errors import DataFreeError
from datafree.networks.zoo import build_network
from datafree.papers.layerwise import comparison, quantization


def test_profiles_validate_and_ask_for_folders_only():
    with pytest.raises(DataFreeError, match="leaves root, imagenet to you"):
        parameters.resolve("06_lw_quantization", "imagenet")
    config = parameters.resolve("06_lw_quantization", "imagenet", {"root": "r", "imagenet": "folder:x"})
    assert (config.model, config.second, config.samples, config.grid) == ("mobilenet_v2", "resnet18", 2000, 100)
    config = parameters.resolve("06_lw_quantization", "reduced")
    assert (config.data, config.imagenet) == ("cifar10", "imagenet-samples")
    assert config.lite_images == 1000 and config.test_images == 10_000


@pytest.mark.parametrize(
    "values", [{"bits": "8 1"}, {"bits": "8,4"}, {"samples": 5}, {"lite_images": 1}, {"imagenet": 3}, {"grid": 1}]
)
def test_values_out_of_range_are_refused(values):
    with pytest.raises(DataFreeError, match=next(iter(values))):
        parameters.resolve("06_lw_quantization", "book", values)


def test_mobilenet_is_quantised_and_measured_on_a_folder(tmp_path):
    for split in ("train", "test"):
        write_images(tmp_path / split, count=2, size=40, classes=("dark", "grey", "light"))
    torch.manual_seed(0)
    net = build_network("mobilenet_v2", classes=3)
    net = levels.replaced(net, [n for n, m in net.named_modules() if isinstance(m, nn.ReLU6)], lambda _: nn.ReLU())
    net = with_statistics(net, side=64)
    config = parameters.resolve(
        "06_lw_quantization", "imagenet", {"data": f"folder:{tmp_path}", "root": "", "imagenet": "folder:x"}
    )
    test = chapters.images(config, "test", 3)
    assert test.pixels.shape == (3, 3, 224, 224)
    settings = quantization.LayerWise(weight_bits=8, act_bits=8, samples=50, grid=5)
    for method in (comparison.dfq, comparison.ours):
        assert 0 <= top1(method(net, settings), test, 2) <= 100
