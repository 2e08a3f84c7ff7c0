"""Labels for pixels: the small network, its training, PASCAL VOC, and FRanDI on all of it."""

import numpy as np
import pytest
import torch
from conftest import interrupt_training, named_pixels
from PIL import Image
from torch import nn

import datafree
from datafree import torchvision_shim
from datafree.book import chapters, parameters
from datafree.config import validate
from datafree.core import batchnorm, training
from datafree.core.flops import count_macs, count_parameters
from datafree.core.graph import trace
from datafree.core.metrics import mean_iou, outputs
from datafree.data import scenes
from datafree.data.sources import CAMVID_CLASSES, VOC_SIDE, load_images
from datafree.errors import DataFreeError
from datafree.networks.blocks import IMAGENET_MEAN, IMAGENET_STD
from datafree.networks.weights import load_network, state_hash, training_record
from datafree.networks.zoo import build_network, image_shape
from datafree.papers.frandi import candidates, factorization, regression, synthesis

SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def net():
    return load_network("segmenter")


@pytest.fixture(scope="module")
def some():
    return load_images("scenes", "test", limit=60)


@pytest.fixture(scope="module")
def factors(net):
    return factorization.Factorizer(net, SHAPE)


# The network ------------------------------------------------------------------------------------------------------


def test_the_embedded_network_labels_unseen_scenes_as_its_record_says(net):
    record = training_record("segmenter")
    found = mean_iou(net, load_images("scenes", "test", limit=200))
    assert record["test_miou"] > 60 and abs(found - record["test_miou"]) < 5
    assert record["model_parameters"] == count_parameters(net)
    assert record["macs"] == count_macs(net, SHAPE)


def test_the_network_for_camvid_is_as_its_record_says():
    net, record = load_network("segmenter_camvid"), training_record("segmenter_camvid")
    shape = image_shape("segmenter_camvid")
    assert shape == (3, 192, 256) and record["test_miou"] > 40
    assert record["model_parameters"] == count_parameters(net) and record["macs"] == count_macs(net, shape)
    assert len(record["log"]) == record["parameters"]["epochs"] and record["parameters"]["half"]
    with torch.no_grad():
        assert net(torch.rand(1, *shape)).shape == (1, len(CAMVID_CLASSES), 192, 256)


def test_the_network_for_camvid_labels_unseen_streets(shared):
    found = mean_iou(load_network("segmenter_camvid"), load_images("camvid", "test", size=(192, 256), limit=20))
    assert abs(found - training_record("segmenter_camvid")["test_miou"]) < 8


@pytest.mark.parametrize("side", [32, 64, 96])
def test_one_output_a_pixel_for_any_multiple_of_eight(net, side):
    with torch.no_grad():
        assert net(torch.rand(2, 3, side, side)).shape == (2, len(scenes.CLASSES), side, side)


def test_all_batchnorm_is_found_and_the_wiring_is_read(net):
    graph = trace(net)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(graph.layers) == len(convs) and sum(layer.norm is not None for layer in graph.layers) == len(convs) - 1
    assert len(batchnorm.layers(net)) == len(convs) - 1


# Spatial SVD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dilation", "stride"), [(2, 1), (3, 1), (2, 2)])
def test_a_convolution_with_holes_is_split_exactly(dilation, stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, 3, stride, dilation, dilation).double()
    thin, x = factorization.spatial_svd(conv, 15), torch.randn(2, 5, 17, 17, dtype=torch.float64)
    torch.testing.assert_close(thin(x), conv(x))
    assert [part.dilation for part in thin] == [(dilation, 1), (1, dilation)]


def test_full_ranks_change_nothing_and_costs_are_those_of_the_network(net, factors, some):
    assert {"aspp.holes.0.0", "aspp.holes.1.0", "merge.0.0"} <= set(factors.layers) and "stem.0" not in factors.layers
    full = factors.network({name: layer.full_rank for name, layer in factors.layers.items()})
    x = some.floats()[:2]
    with torch.no_grad():
        torch.testing.assert_close(full(x), net(x), rtol=1e-3, atol=1e-3)
    ranks = factors.uniform(2.5)
    assert factors.macs(ranks) == count_macs(factors.network(ranks), SHAPE)
    assert factors.macs(ranks) == pytest.approx(factors.dense_macs / 2.5, rel=0.03)


# FRanDI -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(net):
    config = synthesis.Synthesis(images=4, steps=3, precision="float32")
    return synthesis.synthesize(net, config, SHAPE)[0]


def test_images_need_no_labels(pool):
    assert pool.pixels.shape == (4, *SHAPE) and (pool.labels == -1).all()


@pytest.mark.parametrize("calibrated", [False, True])
def test_candidates_give_the_maps_of_the_networks_they_stand_for(factors, pool, calibrated):
    rows = [tuple(factors.uniform(k).values()) for k in (2.5, 3.0)]
    made = candidates.Candidates(factors, calibrated=calibrated).outputs(pool, rows)
    for row, got in zip(rows, made):
        thin = factors.network(dict(zip(factors.layers, row)))
        if calibrated:
            for norm in batchnorm.layers(thin):
                norm[1].train()
                norm[1].momentum = 0.0  # normalise by the batch, keep what is stored
        with torch.no_grad():
            torch.testing.assert_close(got, thin(pool.floats()), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize(("calibrated", "batch"), [(False, 3), (False, 4), (True, 3)])
def test_scores_are_those_of_the_outputs(factors, pool, calibrated, batch):
    rows = [tuple(factors.uniform(k).values()) for k in (3.0, 2.5)]
    many = candidates.Candidates(factors, calibrated=calibrated)
    expected = [made.square().mean().item() for made in many.outputs(pool, rows)]
    assert many.scores(pool, rows, lambda z: z.square().mean().item(), batch) == pytest.approx(expected, rel=1e-4)


def test_the_whole_method_runs_on_maps_of_labels(net, some):
    settings = dict(
        candidates=4, branches=0, precision="float32", tolerance=0.02,
        synthesis=synthesis.Synthesis(images=4, steps=2, precision="float32"),
        recovery=regression.Recovery(steps=2, batch=4, precision="float32"),
    )  # fmt: skip
    before = state_hash(net)
    result = datafree.compress(net, datafree.FRanDI(reduction=2.5, **settings), shape=SHAPE)
    assert result.report["macs_float"] / result.report["macs"] == pytest.approx(2.5, rel=0.06)
    assert outputs(result.model, some[:2]).shape == (2, 8, 64, 64)
    assert state_hash(net) == before and np.isfinite(result.report["regression_loss"])


# Training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(monkeypatch):
    """Two epochs of two steps on a few small scenes."""
    monkeypatch.setattr(scenes, "COUNT", {"train": 8, "test": 4})
    monkeypatch.setattr(scenes, "SIDE", 32)
    values = dict(model="segmenter", data="scenes", epochs=2, batch=4, rate=0.05, bf16=False)
    return validate(training.TrainConfig, values)


def test_training_records_the_mean_iou_and_goes_on_after_an_interruption(monkeypatch, config, tmp_path):
    whole, parts = tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"
    expected = training.train(config, whole)
    interrupt_training(monkeypatch, config, parts, 3)
    record = training.train(config, parts)
    assert record["command"].startswith("datafree train segmenter -p data=scenes -p epochs=2 -p batch=4")
    assert set(record["log"][0]) == {"epoch", "rate", "train_loss", "train_pixels", "test_miou", "seconds"}
    assert record["test_miou"] == record["log"][-1]["test_miou"] and "test_top1" not in record
    assert [row["train_loss"] for row in record["log"]] == pytest.approx(
        [row["train_loss"] for row in expected["log"]], rel=1e-3
    )
    assert load_network("segmenter", parts).normalize.mean.shape == (1, 3, 1, 1)


def test_labels_move_with_their_pixels(config, tmp_path):
    trainer = training.Trainer(config, tmp_path / "w.safetensors")
    images = named_pixels(count=16, side=16)
    images.labels[:, 0] = -1
    images.pixels[:, :, 0] = 255
    trainer.train_set = images
    x, y = trainer.draw(torch.arange(16))
    seen = (x[:, 0] * 255).round().long()
    assert torch.equal(torch.where(seen == 255, -1, seen), y) and (y == -1).any() and not torch.equal(y, images.labels)


def test_the_command_line_says_mean_iou(run_cli, config, tmp_path):
    options = ("-p", "data=scenes", "-p", "epochs=1", "-p", "batch=4", "--out", tmp_path / "w.safetensors")
    code, out, _ = run_cli("train", "segmenter", *options)
    assert code == 0 and "% mean IoU on 4 test images" in out


# PASCAL VOC -------------------------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    """torchvision's layout of PASCAL VOC 2012 with three pictures a split; one object each, its border without label."""
    base = tmp_path / "VOCdevkit" / "VOC2012"
    rng = np.random.default_rng(0)
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    for split in ("train", "val"):
        names = [f"{split}{k}" for k in range(3)]
        (base / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for k, name in enumerate(names):
            size = (60 + 10 * k, 50)
            Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
                base / "JPEGImages" / f"{name}.jpg"
            )
            mask = np.zeros((size[1], size[0]), dtype=np.uint8)
            mask[10:40, 20:45] = 255
            mask[12:38, 22:43] = 5 + k
            picture = Image.fromarray(mask, mode="P")
            picture.putpalette(rng.integers(0, 255, 768, dtype=np.uint8).tolist())
            picture.save(base / "SegmentationClass" / f"{name}.png")
    return tmp_path


def test_voc_is_read_with_labels_for_pixels(voc):
    images = load_images("voc2012", "test", root=voc, size=32)
    assert images.pixels.shape == (3, 3, 32, 32) and images.labels.shape == (3, 32, 32)
    assert len(images.classes) == 21 and set(images.labels.unique().tolist()) == {-1, 0, 5, 6, 7}
    assert len(load_images("voc2012", "train", root=voc, limit=2)) == 2
    assert load_images("voc2012", "test", root=voc, limit=1).pixels.shape[2:] == (VOC_SIDE, VOC_SIDE)


def test_the_profile_paper_asks_for_data_and_weights_only(voc):
    with pytest.raises(DataFreeError, match="leaves weights, root to you"):
        parameters.resolve("12_frandi_segmentation", "paper")
    config = parameters.resolve("12_frandi_segmentation", "paper", {"root": str(voc), "weights": "w.pt"})
    assert (config.model, config.reductions, config.images) == ("deeplabv3plus", "2.5 3", 16)
    assert chapters.images(config, "test", 2).pixels.shape == (2, 3, VOC_SIDE, VOC_SIDE)


def test_pixels_without_label_do_not_count(voc):
    class Background(nn.Module):
        def forward(self, x):
            return nn.functional.pad(torch.ones_like(x[:, :1]), (0, 0, 0, 0, 0, 20))

    images = load_images("voc2012", "test", root=voc, size=32)
    known = images.labels >= 0
    share = 100 * (images.labels[known] == 0).double().mean().item()
    assert mean_iou(Background(), images) == pytest.approx(share / 4)


def test_deeplab_needs_its_package_and_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    with pytest.raises(DataFreeError, match="pip install 'segmentation-models-pytorch"):
        build_network("deeplabv3plus")


def test_deeplab_of_the_package(voc, tmp_path):
    torchvision_shim.install()
    pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    torch.save(build_network("deeplabv3plus").network.state_dict(), tmp_path / "w.pt")
    whole = load_network("deeplabv3plus", tmp_path / "w.pt", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = load_images("voc2012", "test", root=voc, size=64)
    assert 0 <= mean_iou(whole, images) <= 100
    split = factorization.Factorizer(whole, SHAPE)
    assert split.dense_macs / split.macs(split.uniform(3.0)) == pytest.approx(3.0, rel=0.05)
    config = synthesis.Synthesis(images=2, steps=1, precision="float32")
    made, _ = synthesis.synthesize(whole, config, SHAPE)
    assert len(candidates.Candidates(split).outputs(made, [tuple(split.uniform(3.0).values())])) == 1
