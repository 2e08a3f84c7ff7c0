"""Image sets: their parts, draws, and the augmentation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datafree.data.images import ImageSet, generated, joined, random_crop_and_mirror
from datafree.data.sources import load_images
from datafree.errors import DataFreeError


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


def test_a_crop_may_be_smaller_than_the_image():
    x = torch.arange(20 * 30).view(1, 1, 20, 30).repeat(64, 1, 1, 1)
    made = random_crop_and_mirror(x, torch.Generator().manual_seed(0), pad=0, size=(5, 7))
    assert made.shape == (64, 1, 5, 7)
    corners = made.amin((1, 2, 3))  # of an image or of its mirror, the smallest value is that of the top left pixel
    rows, columns = corners // 30, corners % 30
    assert rows.min() >= 0 and rows.max() <= 15 and columns.max() <= 23
    assert len(rows.unique()) > 8 and len(columns.unique()) > 8
    assert torch.equal(made[:, 0, 1] - made[:, 0, 0], torch.full((64, 7), 30))


def test_joined_sets_follow_one_another():
    a, b = (generated(torch.full((n, 3, 4, 4), v), "x") for n, v in ((2, 0.1), (3, 0.9)))
    both = joined([a, b], "both")
    assert len(both) == 5 and both.name == "both" and both.pixels[2].mean() == pytest.approx(0.9)


def test_sets_of_different_kinds_are_not_joined():
    made = generated(torch.rand(2, 3, 32, 32), "made")
    with pytest.raises(DataFreeError, match="different shape or kind"):
        joined([load_images("cifar10-stub", "test")[:2], made], "both")


def test_classes_without_an_image_are_left_out_of_an_even_draw():
    pool = ImageSet(torch.zeros(6, 3, 2, 2), torch.tensor([7, 7, 7, 2, 2, 2]), tuple("abcdefgh"), "mine")
    assert pool.present == [2, 7]
    assert pool.per_class(2).labels.tolist() == [7, 7, 2, 2]
