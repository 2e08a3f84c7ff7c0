"""Corruptions: how much they change, that they stay pictures, and what they refuse."""

import pytest
import torch

from datafree.data import corruptions
from datafree.data.images import ImageSet, generated
from datafree.data.sources import load_images
from datafree.errors import DataFreeError


@pytest.fixture(scope="module")
def images():
    return load_images("cifar10-stub").per_class(3)


def grey(value=0.5, count=4, size=32):
    return ImageSet(torch.full((count, 3, size, size), value), torch.arange(count), ["a"], "grey")


@pytest.mark.parametrize("kind", corruptions.SEVERITIES)
def test_pictures_stay_pictures_and_keep_their_labels(images, kind):
    for severity in range(1, 6):
        after = corruptions.corrupted(images, kind, severity)
        x = after.floats()
        assert x.shape == images.pixels.shape and x.min() >= 0 and x.max() <= 1
        assert torch.equal(after.labels, images.labels) and after.name != images.name
        assert (x - images.floats()).abs().max() > 0.01


@pytest.mark.parametrize("kind", corruptions.SEVERITIES)
def test_a_higher_severity_changes_more(images, kind):
    changes = [(corruptions.corrupted(images, kind, s).floats() - images.floats()).square().mean() for s in range(1, 6)]
    assert changes == sorted(changes) and changes[0] > 0


def test_the_original_is_left_alone(images):
    before = images.pixels.clone()
    for kind in corruptions.SEVERITIES:
        corruptions.corrupted(images, kind, 5)
    assert torch.equal(images.pixels, before)


def test_noise_has_the_deviation_asked_for_and_repeats_with_its_seed():
    x = grey(count=20)
    a, b, c = (corruptions.noise(x, 0.1, seed).floats() for seed in (0, 0, 1))
    assert (a - 0.5).std().item() == pytest.approx(0.1, rel=0.02)  # 60,000 values, five deviations from the clip
    assert abs((a - 0.5).mean().item()) < 0.002
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert corruptions.noise(grey(0.0), 0.1).floats().min() == 0


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.0])
def test_blur_keeps_constants_and_spreads_a_point_by_its_width(sigma):
    assert (corruptions.blur(grey(0.3), sigma).floats() - 0.3).abs().max() < 1e-6
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1
    y = corruptions.blur(generated(point, "point"), sigma).floats()[0, 0]
    assert y.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(y, y.T)
    torch.testing.assert_close(y, y.flip(0))
    at = torch.arange(33) - 16.0
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    expected = (weights * at**2).sum() / weights.sum()  # a sampled normal, whose variance is not quite sigma squared
    assert (y.sum(0) * at**2).sum().item() == pytest.approx(expected.item(), rel=0.02)


def test_blur_takes_images_smaller_than_its_kernel():
    assert corruptions.blur(grey(size=4), 3.0).pixels.shape == (4, 3, 4, 4)


def test_jpeg_gives_bytes_and_takes_floats(images):
    from_bytes = corruptions.jpeg(images, 90)
    from_floats = corruptions.jpeg(generated(images.floats(), "x"), 90)
    assert from_bytes.pixels.dtype == torch.uint8 and torch.equal(from_bytes.pixels, from_floats.pixels)


def test_greyscale_has_equal_channels_and_keeps_grey():
    x = torch.rand(2, 3, 8, 8)
    y = corruptions.greyscale(generated(x, "x")).floats()
    assert torch.equal(y[:, 0], y[:, 1]) and torch.equal(y[:, 0], y[:, 2])
    torch.testing.assert_close(y[:, 0], 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])
    torch.testing.assert_close(corruptions.greyscale(grey(0.25)).floats(), grey(0.25).pixels)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: corruptions.noise(x, 0), "sigma is 0; give a number above zero"),
        (lambda x: corruptions.noise(x, float("nan")), "sigma is nan"),
        (lambda x: corruptions.blur(x, -1), "sigma is -1"),
        (lambda x: corruptions.jpeg(x, 0), "quality is 0; give a whole number from 1 to 95"),
        (lambda x: corruptions.jpeg(x, 100), "quality is 100"),
        (
            lambda x: corruptions.corrupted(x, "fog", 1),
            "corruption 'fog' of severity 1 is not known; give one of noise",
        ),
        (lambda x: corruptions.corrupted(x, "noise", 6), "severity 6"),
        (lambda x: corruptions.corrupted(x, "noise", 0), "severity 0"),
    ],
)
def test_mistakes_are_explained(call, words):
    with pytest.raises(DataFreeError, match=words):
        call(grey())
