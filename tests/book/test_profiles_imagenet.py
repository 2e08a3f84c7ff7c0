"""The profile of table 2 (torchvision's ResNet-18, ImageNet), exercised on a folder of small pictures."""

import pytest
import torch
from conftest import write_images

from datafree import files
from datafree.book import chapters, parameters
from datafree.core import quantized
from datafree.core.hooks import stages
from datafree.core.metrics import top1
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.classifiers import torchvision_state
from datafree.networks.weights import load_network, state_hash
from datafree.networks.zoo import build_network
from datafree.papers.knowledge_within import calibration

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
    student = calibration.calibrate(quantized.quantized(net, 4, 4), pool, calibration.KnowledgeWithin(steps=1, batch=2))
    assert all(layer.batches == 1 for _, layer in quantized.quantized_layers(student))
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
