"""Scenes with a label for every pixel: always the same, and made of what their split holds."""

import pytest
import torch

from datafree.data import scenes
from datafree.data.sources import load_images
from datafree.errors import DataFreeError


@pytest.fixture(scope="module")
def some():
    return scenes.make("test", 150)


def test_the_same_scenes_every_time(some):
    few = load_images("scenes", "test", limit=20)
    assert torch.equal(few.pixels, some.pixels[:20]) and torch.equal(few.labels, some.labels[:20])
    assert few.name == "scenes/test" and few.classes == scenes.CLASSES


def test_sizes_kinds_and_classes(some):
    assert some.pixels.shape == (150, 3, 64, 64) and some.pixels.dtype == torch.uint8
    assert some.labels.shape == (150, 64, 64)
    share = torch.bincount(some.labels.flatten().long(), minlength=len(scenes.CLASSES)) / some.labels.numel()
    assert len(share) == 8 and 0.5 < share[0] < 0.9 and share[1:].min() > 0.003
    assert (some.labels.flatten(1) > 0).any(1).all()


def test_splits_differ_and_read_their_own_images_only(monkeypatch, some):
    read = []
    real = scenes.read_stub
    monkeypatch.setattr(
        scenes, "read_stub", lambda name, split, side: read.append((name, split)) or real(name, split, side)
    )
    train = scenes.make("train", 5)
    assert {split for _, split in read} == {"train"} and len({name for name, _ in read}) == 3
    assert not torch.equal(train.pixels, some.pixels[:5])


def test_an_object_is_where_its_grey_level_is_above_the_threshold():
    scene, labels = torch.full((3, 32, 32), 0.5), torch.zeros(32, 32, dtype=torch.int8)
    item = torch.zeros(28, 28)
    item[:, 14:] = 1
    generator = torch.Generator().manual_seed(0)
    scenes.paste(scene, labels, item, 3, scenes.Draws(generator))
    assert set(labels.unique().tolist()) == {0, 3}
    assert (scene[:, labels == 0] == 0.5).all()
    size = round(0.7 * 32)
    assert 0 < (labels == 3).sum() <= size**2
    colours = scene[:, (labels == 3) & (scene.sum(0) == scene[:, labels == 3].sum(0).max())]
    assert (colours >= scenes.COLOUR[0] - 1e-6).all() and (colours <= 1).all()


def test_a_later_object_covers_an_earlier_one(monkeypatch):
    monkeypatch.setattr(scenes, "SIZES", (1.0, 1.0))
    scene, labels = torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.int8)
    draws = scenes.Draws(torch.Generator().manual_seed(0))
    for label in (1, 2):
        scenes.paste(scene, labels, torch.ones(28, 28), label, draws)
    assert (labels == 2).all()


def test_other_sizes_and_wrong_ones():
    assert load_images("scenes", "test", limit=2, size=32).labels.shape == (2, 32, 32)
    with pytest.raises(DataFreeError, match="scenes of 8 pixels are too small"):
        load_images("scenes", "test", limit=2, size=8)
    with pytest.raises(DataFreeError, match="split 'validation' is not known"):
        load_images("scenes", "validation")


def test_images_whose_pixels_are_labelled_are_not_drawn_by_class(some):
    with pytest.raises(DataFreeError, match="labels pixels, so its images have no class"):
        some.per_class(1)
