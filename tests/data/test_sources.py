"""Images: the embedded subset, folders, torchvision's sets, and the augmentation."""

import json

import numpy as np
import pytest
import torch
from conftest import write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datafree import files
from datafree.core.metrics import top1
from datafree.data import sources
from datafree.data.embedded import CIFAR10_CLASSES, write_stub
from datafree.data.images import generated, joined, random_crop_and_mirror
from datafree.data.sources import TORCHVISION_SETS, _centre_crop, load_images
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


def test_floats_lie_between_zero_and_one():
    images = load_images("cifar10-stub").per_class(2)
    x = images.floats()
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    assert x.min() >= 0 and x.max() <= 1 and x.max() > 0.9
    torch.testing.assert_close((x * 255).round().to(torch.uint8), images.pixels, rtol=0, atol=0)
    assert torch.equal(generated(x, "made").floats(), x)


def test_batches_and_parts_keep_images_and_labels_together():
    images = load_images("cifar10-stub").per_class(3)
    parts = list(images.batches(7))
    assert [len(x) for x, _ in parts] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat([y for _, y in parts]), images.labels)
    assert torch.equal(torch.cat([x for x, _ in parts]), images.floats())
    assert len(images[4]) == 1 and images[4].labels[0] == images.labels[4]


def test_a_draw_per_class_is_balanced_and_repeats_with_its_seed():
    images = load_images("cifar10-stub")
    first, again, other = (images.per_class(5, seed) for seed in (1, 1, 2))
    assert torch.bincount(first.labels).tolist() == [5] * 10
    assert torch.equal(first.pixels, again.pixels) and not torch.equal(first.pixels, other.pixels)


def test_more_images_than_there_are_is_refused():
    with pytest.raises(DataFreeError, match="has 200 images of class 'airplane', 201 were asked for"):
        load_images("cifar10-stub").per_class(201)


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
    assert _centre_crop(Image.new("RGB", (width, height)), size).size == (size, size)


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


def draw(x, seed=0, pad=4):
    return random_crop_and_mirror(x, torch.Generator().manual_seed(seed), pad)


@settings(max_examples=30)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(5, 12), st.integers(5, 12), st.integers(0, 4), st.integers(0, 99)
)
def test_augmentation_keeps_the_shape_and_invents_no_value(n, c, h, w, pad, seed):
    x = torch.arange(float(n * c * h * w)).view(n, c, h, w)  # every value tells where it comes from
    y = draw(x, seed, pad)
    assert y.shape == x.shape
    place = torch.arange(n * c).view(n, c, 1, 1).expand_as(y)
    assert torch.equal((y // (h * w)).long(), place)
    assert torch.equal(draw(x, seed, pad), y)


def test_without_padding_only_mirrors_are_left_and_about_half_flip():
    x = torch.rand(400, 3, 8, 8)
    y = draw(x, pad=0)
    same, mirrored = ((y == z).flatten(1).all(1) for z in (x, x.flip(3)))
    assert (same ^ mirrored).all() and 150 < mirrored.sum() < 250


def test_every_shift_occurs_and_images_move_apart():
    row = torch.arange(16.0)
    x = (row[:, None] * 100 + row).expand(600, 1, 16, 16)
    y = draw(x)[:, 0, 8, 8]  # the centre shows the shift
    rows = (y // 100).unique().tolist()
    columns = (y % 100).unique().tolist()
    assert rows == list(range(4, 13)) and columns == list(range(3, 13))


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


def test_joined_sets_follow_one_another():
    a, b = (generated(torch.full((n, 3, 4, 4), v), "x") for n, v in ((2, 0.1), (3, 0.9)))
    both = joined([a, b], "both")
    assert len(both) == 5 and both.name == "both" and both.pixels[2].mean() == pytest.approx(0.9)


def test_sets_of_different_kinds_are_not_joined():
    made = generated(torch.rand(2, 3, 32, 32), "made")
    with pytest.raises(DataFreeError, match="different shape or kind"):
        joined([load_images("cifar10-stub", "test")[:2], made], "both")
