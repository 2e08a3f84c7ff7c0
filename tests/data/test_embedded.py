"""The image sets that come with the repository: whole, balanced, and written as they are read."""

import json

import pytest
import torch

from datafree import files
from datafree.core.metrics import top1
from datafree.data.embedded import CIFAR10_CLASSES, write_stub
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network


@pytest.mark.parametrize(("split", "per_class"), [("test", 200), ("train", 50)])
def test_the_embedded_subset_is_balanced(split, per_class):
    images = load_images("cifar10-stub", split)
    assert images.pixels.shape == (10 * per_class, 3, 32, 32) and images.pixels.dtype == torch.uint8
    assert torch.bincount(images.labels).tolist() == [per_class] * 10
    assert images.classes == CIFAR10_CLASSES
    assert len({x.numpy().tobytes() for x in images.pixels}) == len(images)


def test_the_embedded_splits_do_not_overlap():
    train, test = ({x.numpy().tobytes() for x in load_images("cifar10-stub", s).pixels} for s in ("train", "test"))
    assert not train & test


def test_the_embedded_labels_fit_the_images(stubs):
    """Shifted or shuffled labels would give a trained network about 10 %."""
    model = load_network(next((stubs / "models").glob("*.safetensors")).stem)
    for split in ("train", "test"):
        assert top1(model, load_images("cifar10-stub", split).per_class(20)) > 80


@pytest.mark.parametrize(("per_class", "columns"), [(3, 4), (2, 50)])
def test_a_subset_is_written_and_read_without_loss(stubs, forget, tmp_path, per_class, columns):
    source = load_images("cifar10-stub", "train")
    path = write_stub(source, "test", per_class, columns)
    assert path.parent == stubs / "cifar10"
    with pytest.raises(DataFreeError, match="does not have the SHA-256"):
        load_images("cifar10-stub", "test")
    files.seal()
    images, expected = load_images("cifar10-stub", "test"), source.per_class(per_class)
    assert torch.equal(images.pixels, expected.pixels) and torch.equal(images.labels, expected.labels)


def test_a_split_without_labels_is_refused(stubs):
    (stubs / "cifar10" / "test.json").unlink()
    with pytest.raises(DataFreeError, match="labels of the stub are missing"):
        load_images("cifar10-stub")
    (stubs / "cifar10" / "test.webp").unlink()
    with pytest.raises(DataFreeError, match="has no split 'test'"):
        load_images("cifar10-stub")
    assert json.loads((stubs / "cifar10" / "train.json").read_text())["size"] == 32


@pytest.mark.parametrize(
    ("name", "split", "count", "size"),
    [("fashion-mnist-stub", "test", 500, 28), ("fashion-mnist-stub", "train", 500, 28),
     ("digits-stub", "test", 500, 8), ("digits-stub", "train", 1297, 8)],
)  # fmt: skip
def test_the_embedded_grey_sets(name, split, count, size):
    small, usual = load_images(name, split, size=size), load_images(name, split)
    assert small.pixels.shape == (count, 3, size, size) and usual.pixels.shape == (count, 3, 32, 32)
    assert torch.equal(small.labels, usual.labels) and len(small.classes) == 10
    assert torch.bincount(small.labels, minlength=10).min() > 0.9 * count / 10
    for pixels in (small.pixels, usual.pixels):
        assert (
            pixels.dtype == torch.uint8
            and torch.equal(pixels[:, 0], pixels[:, 1])
            and torch.equal(pixels[:, 0], pixels[:, 2])
        )
    means = [x.floats().mean((1, 2, 3)) for x in (small, usual)]
    assert (means[0] - means[1]).abs().max() < 0.05, "enlarging keeps the brightness"


def test_the_digits_are_the_seventeen_grey_levels_they_were():
    levels = load_images("digits-stub", "train", size=8).pixels.unique()
    assert torch.equal(levels, (torch.arange(17) * 255 / 16).round().to(torch.uint8))


@pytest.mark.parametrize("name", ["fashion-mnist-stub", "digits-stub"])
def test_splits_of_the_grey_sets_do_not_overlap(name):
    train, test = ({x.numpy().tobytes() for x in load_images(name, s, size=28).pixels} for s in ("train", "test"))
    assert len(train & test) == 0


def test_a_whole_set_is_written_in_its_own_order(stubs, forget):
    source = load_images("digits-stub", "test", size=8)[slice(0, 7)]
    assert write_stub(source, "train", None, 3, "digits-stub").parent == stubs / "digits"
    files.seal()
    again = load_images("digits-stub", "train", size=8)
    assert torch.equal(again.pixels, source.pixels) and torch.equal(again.labels, source.labels)
