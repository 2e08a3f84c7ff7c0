"""The profiles of the papers' own data and networks, exercised on folders of small pictures."""

import pytest
import torch
from conftest import with_statistics, write_images
from torch import nn

from datafree import files
from datafree.book import chapters, parameters
from datafree.core import batchnorm, quantized
from datafree.core.graph import replaced
from datafree.core.hooks import stages
from datafree.core.metrics import outputs, top1
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.classifiers import torchvision_state
from datafree.networks.weights import load_network, state_hash
from datafree.networks.zoo import build_network
from datafree.papers.frandi import factorization, regression, synthesis
from datafree.papers.knowledge_within import calibration
from datafree.papers.layerwise import comparison, quantization

# FRanDI: CIFAR-100 and ImageNet

CHAPTERS = ("09_frandi_recovery", "10_frandi_selection")
NORMAL = {"mean": "0.5 0.5 0.5", "std": "0.25 0.25 0.25"}


@pytest.mark.parametrize("notebook", (*CHAPTERS, "11_frandi_prune_quantize"))
@pytest.mark.parametrize(
    ("profile", "asked"),
    [("paper", "weights"), ("cifar100", "weights"), ("imagenet", "root"), ("reduced", "")],
)
def test_profiles_validate_and_ask_for_files_only(notebook, profile, asked):
    if asked:
        with pytest.raises(DataFreeError, match=f"leaves {asked} to you"):
            parameters.resolve(notebook, profile)
    config = parameters.resolve(notebook, profile, {asked: "somewhere"} if asked else {})
    assert config.images >= (64 if profile == "reduced" else 256)
    assert config.synthesis_steps >= (250 if profile == "reduced" else 500)


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """Folder of pictures in three classes, and random weights of both ResNet-18 for as many."""
    root = tmp_path_factory.mktemp("little")
    for split, seed in (("train", 0), ("test", 1)):
        write_images(root / split, count=4, size=32, classes=("dark", "grey", "light"), seed=seed)
    torch.manual_seed(0)
    for name in ("resnet18", "resnet18_cifar"):
        state = build_network(name, classes=3).state_dict()
        torch.save({k: v for k, v in state.items() if not k.startswith("normalize.")}, root / f"{name}.pt")
    return root


@pytest.mark.parametrize(
    ("profile", "name", "side"), [("cifar100", "resnet18_cifar", 32), ("imagenet", "resnet18", 224)]
)
def test_the_method_runs_on_a_folder(little, profile, name, side):
    given = {"weights": str(little / f"{name}.pt"), "data": f"folder:{little}", "root": ""}
    config = parameters.resolve("10_frandi_selection", profile, given | (NORMAL if side == 32 else {}))
    net, test = chapters.network(config), chapters.images(config, "test", 3)
    assert config.model == name and test.pixels.shape == (3, 3, side, side)
    pool, history = synthesis.synthesize(
        net, synthesis.Synthesis(images=2, steps=2, precision="float32"), (3, side, side)
    )
    splits = factorization.Factorizer(net, (3, side, side))
    thin = batchnorm.recalibrate(splits.network(splits.uniform(config.plot_reduction)), pool)
    done = regression.Regression(
        thin, net, list(splits.layers), pool, regression.Recovery(steps=1, batch=2, rate=config.rate)
    )
    assert len(history) == 2 and torch.isfinite(torch.tensor(done.run())).all()
    assert outputs(thin, test).shape == (3, 3)


def test_the_number_of_classes_follows_from_the_weights(little):
    net = load_network("resnet18_cifar", little / "resnet18_cifar.pt", mean=(0.5,) * 3, std=(0.25,) * 3)
    assert net.linear.out_features == 3
    with pytest.raises(DataFreeError, match="linear.weight"):
        load_network("resnet18_cifar", little / "resnet18_cifar.pt", mean=(0.5,) * 3, std=(0.25,) * 3, classes=7)


# torchvision's ResNet-18 on ImageNet (table 2)

CLASSES = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of pictures of 40 x 40 in three classes, and random weights of a ResNet-18 for as many."""
    root = tmp_path_factory.mktemp("little")
    for split, seed in (("train", 0), ("test", 1)):
        write_images(root / split, count=4, size=40, classes=("dark", "grey", "light"), seed=seed)
    torch.manual_seed(0)
    network = build_network("resnet18", classes=CLASSES)
    torch.save(network.network.state_dict(), root / "weights.pt")
    return root


def settings(place, notebook="02_kw_calibration", **changes):
    values = {"weights": str(place / "weights.pt"), "data": f"folder:{place}", "root": "", "images": 12,
              "synthesis_batch": 2, "synthesis_steps": 1, "copies": 1, "batch": 16, "steps": 2, "test_images": 12}  # fmt: skip
    return parameters.resolve(notebook, "imagenet", values | changes)


@pytest.fixture(scope="module")
def net(place):
    return load_network("resnet18", place / "weights.pt", classes=CLASSES)


def test_the_profile_validates_and_asks_for_the_folder_only():
    for notebook in ("02_kw_calibration", "03_kw_distillation"):
        with pytest.raises(DataFreeError, match="leaves root to you"):
            parameters.resolve(notebook, "imagenet")
        config = parameters.resolve(notebook, "imagenet", {"root": "somewhere"})
        assert (config.model, config.data, config.images) == ("resnet18", "imagenet", 10_000)


def test_images_are_read_at_the_network_s_size_and_no_more_than_asked_for(place):
    config = settings(place)
    test = chapters.images(config, "test", 6)
    assert test.pixels.shape == (6, 3, 224, 224) and torch.bincount(test.labels).tolist() == [2, 2, 2]


def test_fewer_images_than_classes_are_refused(place):
    with pytest.raises(DataFreeError, match="fewer than the 3 classes"):
        load_images(f"folder:{place}", "test", limit=2)


def test_synthesis_and_calibration_at_224(place, net, monkeypatch):
    monkeypatch.setattr(files, "BUILD", place / "build")
    config = settings(place)
    pool = chapters.calibration_images(net, config, "bns", count=2)
    assert pool.pixels.shape == (2, 3, 224, 224)
    student = calibration.calibrate(quantized.prepare(net, 4, 4), pool, calibration.KnowledgeWithin(steps=1, batch=2))
    assert all(layer.high > layer.low for _, layer in quantized.quantized_layers(student))
    assert 0 <= top1(student, chapters.images(config, "test", 6)) <= 100


def test_stages_of_torchvision_s_resnet_are_its_layers_and_its_stem(net):
    found = stages(net, (3, 64, 64))
    assert [name.split(".")[1] for name in found][-4:] == ["layer1", "layer2", "layer3", "layer4"]


def test_torchvision_keys_load_with_and_without_the_prefix(net, place, tmp_path):
    torch.save(net.state_dict(), tmp_path / "ours.pt")
    again = load_network("resnet18", tmp_path / "ours.pt", classes=CLASSES)
    assert state_hash(again) == state_hash(net)


def test_torchvision_weights_belong_to_torchvision_s_networks():
    with pytest.raises(DataFreeError, match="no weights for 'resnet20'"):
        load_network("resnet20", "torchvision")


def test_no_network_is_said_in_a_sentence(monkeypatch):
    from datafree import torchvision_shim

    torchvision_shim.install()
    from torchvision import models as theirs

    def unreachable(*_args, **_settings):
        raise OSError("no route to host")

    monkeypatch.setattr(theirs, "get_model", unreachable)
    with pytest.raises(DataFreeError, match="could not be fetched.*no route to host.*weights=PATH"):
        torchvision_state("resnet18")


# torchvision's MobileNetV2 with ReLU on ImageNet (table I)


def test_profiles_validate_and_ask_for_folders_only():
    with pytest.raises(DataFreeError, match="leaves root, imagenet to you"):
        parameters.resolve("06_lw_quantization", "imagenet")
    config = parameters.resolve("06_lw_quantization", "imagenet", {"root": "r", "imagenet": "folder:x"})
    assert (config.model, config.second, config.samples, config.grid) == ("mobilenet_v2", "resnet18", 2000, 100)
    config = parameters.resolve("06_lw_quantization", "reduced")
    assert (config.data, config.second_data, config.third_data) == ("cifar10", "cifar100", "imagenet-val")
    assert config.imagenet == "imagenet-val" and config.round_steps == config.training_steps == 1000


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
    net = replaced(net, [n for n, m in net.named_modules() if isinstance(m, nn.ReLU6)], lambda _: nn.ReLU())
    net = with_statistics(net, side=64)
    config = parameters.resolve(
        "06_lw_quantization", "imagenet", {"data": f"folder:{tmp_path}", "root": "", "imagenet": "folder:x"}
    )
    test = chapters.images(config, "test", 3)
    assert test.pixels.shape == (3, 3, 224, 224)
    settings = quantization.LayerWise(weight_bits=8, act_bits=8, samples=50, grid=5)
    for method in (comparison.dfq, comparison.ours):
        assert 0 <= top1(method(net, settings), test, 2) <= 100
