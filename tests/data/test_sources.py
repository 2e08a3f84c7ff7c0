"""Images: the embedded subset, folders, torchvision's sets, and the augmentation."""

import os

import numpy as np
import pytest
import torch
from conftest import write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datafree.data import sources
from datafree.data.sources import TORCHVISION_SETS, centre_crop, load_images
from datafree.errors import DataFreeError


@pytest.mark.parametrize("layout", ["with splits", "without"])
def test_a_folder_is_read_in_both_layouts(folder, layout):
    root = folder if layout == "with splits" else folder / "test"
    images = load_images(f"folder:{root}", "test")
    assert images.pixels.shape == (8, 3, 8, 8) and images.classes == ["dark", "light"]
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    assert images.floats()[:4].mean() < 0.4 < images.floats()[4:].mean()
    assert torch.equal(images.pixels[0], load_images(f"folder:{folder}").pixels[0])


def test_a_folder_chooses_its_split(folder):
    assert len(load_images(f"folder:{folder}", "train")) == 16
    assert len(load_images(f"folder:{folder}", "test")) == 8


def test_hidden_folders_and_other_files_are_not_images(folder):
    (folder / "test" / ".cache").mkdir()
    (folder / "test" / "dark" / "notes.txt").write_text("x")
    assert load_images(f"folder:{folder}").classes == ["dark", "light"] and len(load_images(f"folder:{folder}")) == 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / "a" / "x.png")
    assert load_images(f"folder:{tmp_path}").pixels.unique().tolist() == [255]


def test_images_of_mixed_sizes_ask_for_one_and_are_cropped_to_it(folder):
    write_images(folder / "test", 1, size=20)
    with pytest.raises(DataFreeError, match="differ in size \\(2 sizes\\); give size=N"):
        load_images(f"folder:{folder}")
    assert load_images(f"folder:{folder}", size=6).pixels.shape == (8, 3, 6, 6)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_the_crop_has_the_size_asked_for(size, width, height):
    assert centre_crop(Image.new("RGB", (width, height)), size).size == (size, size)


def test_the_crop_is_the_centre(tmp_path):
    (tmp_path / "a").mkdir()
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 16:48] = 200  # bright in the middle: nothing else is left
    Image.fromarray(picture).save(tmp_path / "a" / "x.png")
    assert load_images(f"folder:{tmp_path}", size=16).pixels.min() == 200


def test_an_unreadable_image_is_named(folder):
    path = folder / "test" / "dark" / "00.png"
    for content in (b"", b"no image", path.read_bytes()[:60], path.read_bytes()[:-40]):
        path.write_bytes(content)
        with pytest.raises(DataFreeError, match="00.png' cannot be read .*remove it or replace it"):
            load_images(f"folder:{folder}")


def test_a_picture_that_claims_to_be_huge_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "x.bmp")
    content = bytearray((tmp_path / "a" / "x.bmp").read_bytes())
    content[18:26] = (2**20).to_bytes(4, "little") * 2
    (tmp_path / "a" / "x.bmp").write_bytes(content)
    with pytest.raises(DataFreeError, match="x.bmp' cannot be read"):
        load_images(f"folder:{tmp_path}")


def test_folders_without_images_say_what_was_expected(tmp_path):
    with pytest.raises(DataFreeError, match="does not exist; expected .*/CLASS/IMAGE"):
        load_images(f"folder:{tmp_path / 'none'}")
    with pytest.raises(DataFreeError, match="holds no class folders with images; expected"):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_torchvision_sets_need_a_root_that_holds_them(name, tmp_path):
    with pytest.raises(DataFreeError, match=f"data set '{name}' needs root=PATH"):
        load_images(name)
    with pytest.raises(DataFreeError, match=f"data set '{name}' could not be opened under .*download"):
        load_images(name, root=tmp_path)


@pytest.mark.parametrize(("name", "side"), [("svhn", 32), ("imagenet", 224), ("mnist", 32)])
def test_torchvision_images_become_one_size(name, side, tmp_path, monkeypatch):
    sizes = [(28, 28), (400, 300), (32, 32)]
    opened = [(Image.new("L", size, 50), k) for k, size in enumerate(sizes)]
    monkeypatch.setattr(sources, "_torchvision_set", lambda *_: opened)
    images = load_images(name, root=tmp_path)
    assert images.pixels.shape == (3, 3, side, side) and images.labels.tolist() == [0, 1, 2]
    assert images.pixels.unique().tolist() == [50]


def test_unknown_names_splits_and_sizes():
    with pytest.raises(
        DataFreeError, match="data set 'cifar11' is not known .*; use 'folder:PATH' or one of cifar10-stub"
    ):
        load_images("cifar11")
    with pytest.raises(DataFreeError, match="split 'validation' is not known; use 'train' or 'test'"):
        load_images("cifar10-stub", "validation")
    for size in (0, -1):
        with pytest.raises(DataFreeError, match=f"size is {size}"):
            load_images("folder:x", size=size)


def test_pictures_of_sixteen_bits_are_refused(folder):
    deep = np.full((8, 8), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "test" / "dark" / "00.png")
    with pytest.raises(DataFreeError, match="00.png' cannot be read .it has 16 bits a pixel"):
        load_images(f"folder:{folder}")


def test_a_class_without_images_is_named(folder):
    (folder / "test" / "nothing").mkdir()
    with pytest.raises(DataFreeError, match="nothing' holds no image; fill it or remove it"):
        load_images(f"folder:{folder}")


def test_a_pipe_among_the_images_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "test" / "dark" / "pipe.png")
    with pytest.raises(DataFreeError, match="pipe.png' is no ordinary file"):
        load_images(f"folder:{folder}")
