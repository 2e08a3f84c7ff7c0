"""The Knowledge Within: losses, augmentation, algorithm 1, image sets and calibration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from datafree.config import validate
from datafree.core import batchnorm
from datafree.data.images import generated
from datafree.errors import DataFreeError
from datafree.networks.blocks import Normalize
from datafree.networks.weights import state_hash
from datafree.papers.knowledge_within import synthesis

SCHEMES = list(synthesis.SCHEMES)


def config(**changes):
    return synthesis.SynthesisConfig(
        **{"batch": 8, "steps": 6, "copies": 2, "precision": "float32", "kernel": 3} | changes
    )


def synthesize(net, **changes):
    return synthesis.synthesize(net, config(**changes), size=16, progress=False)


def test_kernel_sums_to_one_and_is_symmetric():
    for size, sigma in ((3, 1.0), (5, 0.375), (9, 0.7)):
        k = synthesis.gaussian_kernel(size, sigma)
        assert k.shape == (size, size) and k.sum().item() == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(k, k.flip(0).T)
        assert k.argmax() == size * size // 2
    ratio = synthesis.gaussian_kernel(3, 1.0)[1, 0] / synthesis.gaussian_kernel(3, 1.0)[1, 1]
    assert ratio.item() == pytest.approx(math.exp(-0.5), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 7, 11)])
def test_smoothness_is_zero_for_constants_and_falls_with_blur(shape):
    kernel = synthesis.gaussian_kernel(3, 1.0)
    assert synthesis.smoothness(torch.full(shape, 0.3), kernel).item() < 1e-12
    noise = torch.rand(shape)
    blurred = nn.functional.avg_pool2d(noise, 3, 1, 1)
    assert synthesis.smoothness(blurred, kernel) < synthesis.smoothness(noise, kernel)


@settings(max_examples=30)
@given(st.floats(-100, 1000), st.floats(0.5, 200))
def test_class_term_is_the_exponential_of_the_target_logit_alone(logit, temperature):
    logits = torch.tensor([[1.0, logit, -3.0]], dtype=torch.float64, requires_grad=True)
    value = synthesis.class_term(logits, torch.tensor([1]), temperature)
    (grad,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(math.exp(-logit / temperature), rel=1e-6)
    assert grad[0, 0] == grad[0, 2] == 0 and grad[0, 1].item() == pytest.approx(-value.item() / temperature, rel=1e-6)


def test_gaussian_images_have_the_moments_of_the_normalisation(net):
    x = synthesis.gaussian_images(net, 400, 32, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.tensor((0.4, 0.5, 0.6)), atol=2e-3, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.tensor((0.2, 0.25, 0.3)), atol=2e-3, rtol=0)


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("size", [(16, 16), (7, 12)])
def test_augmentation_copies_stay_in_range_and_carry_gradient(copies, size):
    x = torch.rand(6, 3, *size, requires_grad=True)
    y = synthesis.augment_in_batch(x, copies, torch.full((1, 3, 1, 1), 0.5), torch.Generator().manual_seed(3))
    assert y.shape == (6 * copies, 3, *size) and y.min() >= -1e-6 and y.max() <= 1 + 1e-6
    for part in y.split(6):
        (grad,) = torch.autograd.grad(part.sum(), x, retain_graph=True)
        assert (grad.abs().sum((1, 2, 3)) > 0).all()


def test_augmentation_draws_holes_crops_and_mirrors():
    x = torch.rand(1, 3, 16, 16).expand(300, -1, -1, -1)
    y = synthesis.augment_in_batch(x, 1, torch.full((1, 3, 1, 1), -7.0), torch.Generator().manual_seed(0))
    holes = (y == -7.0).flatten(1).any(1)
    mirrored = (y - x.flip(3)).abs().flatten(1).amax(1) < 1e-4
    assert 60 < holes.sum() < 140 and 60 < mirrored.sum() < 140 and not (holes & mirrored).any()
    assert ((y[holes] == -7.0)[:, 0].sum((1, 2)) == 16).all()  # a quarter of the side, squared


@pytest.mark.parametrize("scheme", SCHEMES)
def test_synthesis_leaves_the_network_untouched(net, scheme):
    before = state_hash(net)
    flags = [p.requires_grad for p in net.parameters()]
    result = synthesize(net, scheme=scheme, steps=2)
    assert state_hash(net) == before and flags == [p.requires_grad for p in net.parameters()]
    assert all(p.grad is None for p in net.parameters()) and not net.training
    assert result.images.shape == (8, 3, 16, 16)


@pytest.mark.parametrize("scheme", SCHEMES[1:])
def test_images_stay_in_the_unit_interval_at_every_step(net, scheme):
    seen = []
    handle = net[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().aminmax()))
    result = synthesize(net, scheme=scheme, rate=0.5)
    handle.remove()
    assert len(seen) == 1 + 6  # the first pass counts the classes
    assert all(low >= -1e-6 and high <= 1 + 1e-6 for low, high in seen)
    assert result.images.min() >= 0 and result.images.max() <= 1


def test_each_scheme_lowers_its_own_loss_and_watches_all(net):
    for scheme, name in (("bns", "J_KL"), ("inception", "class_term"), ("bns_inception", "loss")):
        history = synthesize(net, scheme=scheme, steps=40, batch=16, temperature=0.1).history
        assert set(history) == {"J_KL", "class_term", "smoothness", "loss"}
        assert sum(history[name][-5:]) < 0.9 * sum(history[name][:5]), scheme


@pytest.mark.parametrize("divergence", ["kl", "kl_reverse", "mse"])
def test_every_form_of_the_statistics_loss_lowers_j_kl(net, divergence):
    result = synthesize(net, divergence=divergence, steps=40, batch=16, augment=False, rate=0.05)
    start = synthesize(net, divergence=divergence, steps=1, batch=16, augment=False, rate=1e-9)
    level = [batchnorm.j_kl(net, generated(r.images, "x")) for r in (start, result)]
    assert level[1] < 0.6 * level[0]


def test_seeds_repeat_and_differ(net):
    a, b, c = (synthesize(net, seed=s).images for s in (1, 1, 2))
    torch.testing.assert_close(a, b)
    assert (a - c).abs().max() > 0.1


def test_input_pair_adds_the_normalisation(net):
    with_pair, without = (
        synthesis.Algorithm1(net, config(), 16),
        synthesis.Algorithm1(net, config(input_pair=False), 16),
    )
    assert len(with_pair.reference) == len(without.reference) + 1 == len(batchnorm.layers(net)) + 1
    torch.testing.assert_close(with_pair.reference[-1][1], torch.tensor((0.2, 0.25, 0.3)) ** 2)


def test_bf16_synthesis_reaches_the_level_of_float32(net):
    levels = [
        batchnorm.j_kl(net, generated(synthesize(net, steps=60, batch=16, precision=p).images, p))
        for p in ("float32", "bf16")
    ]
    assert levels[1] == pytest.approx(levels[0], rel=0.35, abs=0.01)


def test_nan_stops_with_a_sentence(net):
    broken = nn.Sequential(*net)
    layer = nn.BatchNorm2d(8)
    layer.load_state_dict(net[2].state_dict())
    layer.running_mean[0] = float("nan")
    broken[2] = layer
    with pytest.raises(DataFreeError, match="synthesis of BNS images diverged at step 0: the loss is NaN"):
        synthesize(broken.eval())


def test_networks_that_cannot_be_used():
    plain = nn.Sequential(Normalize(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(DataFreeError, match="no BatchNorm"):
        synthesize(plain)
    with pytest.raises(DataFreeError, match="no datafree.networks.blocks.Normalize"):
        synthesize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))


@pytest.mark.parametrize(
    "values, words",
    [
        ({"step": 5}, "step"), ({"steps": "5"}, "valid integer"), ({"rate": float("nan")}, "finite"),
        ({"steps": 0}, "greater than or equal to 1"), ({"scheme": "BNS"}, "'bns'"), ({"steps": True}, "valid integer"),
    ],
)  # fmt: skip
def test_settings_are_strict(values, words):
    with pytest.raises(DataFreeError, match=words):
        validate(synthesis.SynthesisConfig, values)


def test_image_set_goes_on_where_it_stopped(net, tmp_path, monkeypatch):
    path, calls = tmp_path / "set.safetensors", []
    real = synthesis.synthesize

    def counting(*args, **kwargs):
        calls.append(args[1].seed)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, progress=False)

    monkeypatch.setattr(synthesis, "synthesize", counting)
    settings_ = config(steps=2, seed=4)
    with pytest.raises(KeyboardInterrupt):
        synthesis.image_set(net, settings_, 20, path, size=16)
    assert path.is_file() and calls == [4000, 4001, 4002]
    made = synthesis.image_set(net, settings_, 20, path, size=16)
    assert calls[3:] == [4002] and len(made) == 20
    again = synthesis.image_set(net, settings_, 20, path, size=16)
    assert len(calls) == 4
    torch.testing.assert_close(made.pixels, again.pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["set.safetensors"]


def test_image_set_is_made_anew_for_other_settings_or_weights(net, tmp_path):
    path = tmp_path / "set.safetensors"
    first = synthesis.image_set(net, config(steps=1), 8, path, size=16)
    second = synthesis.image_set(net, config(steps=2), 8, path, size=16)
    assert not torch.equal(first.pixels, second.pixels)


def test_corrupt_image_set_is_named(net, tmp_path):
    path = tmp_path / "set.safetensors"
    path.write_bytes(b"half a file")
    with pytest.raises(DataFreeError, match="cannot be read .* delete the file"):
        synthesis.image_set(net, config(), 8, path, size=16)


def test_snapshots_are_stages_of_one_run(net):
    config = synthesis.SynthesisConfig(batch=4, steps=4, copies=1, precision="float32")
    kept = synthesis.snapshots(net, config, [1, 4])
    assert list(kept) == [1, 4] and all(k.min() >= 0 and k.max() <= 1 for k in kept.values())
    assert torch.allclose(kept[4], synthesis.synthesize(net, config, progress=False).images, atol=1e-4)
    assert not torch.equal(kept[1], kept[4])
    with pytest.raises(DataFreeError, match="cannot be caught at .*5.* of 4 steps"):
        synthesis.snapshots(net, config, [1, 5])


def test_a_run_is_watched_before_each_step_with_clipped_images(net):
    seen, work = [], synthesis.Algorithm1(net, config(rate=0.5, steps=3), 16)
    result = work.run(progress=False, watch=lambda done: seen.append((done, *work.images.detach().aminmax())))
    assert [done for done, _, _ in seen] == [0, 1, 2]
    assert all(low >= 0 and high <= 1 for _, low, high in seen)
    assert all(len(values) == 3 for values in result.history.values())


def test_made_images_have_a_class_for_each_output(net, tmp_path):
    for scheme in ("bns", "gaussian"):
        made = synthesis.image_set(net, config(steps=1, scheme=scheme, batch=2), 2, size=16, classes=10)
        assert made.classes == [str(k) for k in range(10)]


def test_summing_over_channels_weighs_layers_by_their_width():
    made, kept = [[(torch.zeros(width), torch.full((width,), v)) for width in (8, 2)] for v in (2.0, 1.0)]
    one = batchnorm.bns_divergence(*made[1], *kept[1])[0]
    torch.testing.assert_close(batchnorm.mean_divergence(made, kept), one)
    torch.testing.assert_close(batchnorm.mean_divergence(made, kept, summed=True), (8 + 2) / 2 * one)


@pytest.mark.parametrize(("side", "size", "sigma"), [(8, 3, 1.0), (32, 5, 0.375), (9, 7, 2.0)])
def test_the_blur_by_matrices_is_the_blur_by_convolution(side, size, sigma):
    x, kernel = torch.rand(3, 3, side, side, requires_grad=True), synthesis.gaussian_kernel(size, sigma)
    plain = synthesis.smoothness(x, kernel)
    fast = synthesis.fast_smoothness(x, synthesis.blur_matrix(kernel, side).T)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(*(torch.autograd.grad(value, x)[0] for value in (fast, plain)))


def test_targets_are_drawn_from_all_outputs_of_the_network(net):
    torch.manual_seed(0)
    few = nn.Sequential(*list(net)[:-1], nn.Linear(8, 3))
    result = synthesis.synthesize(few, config(steps=1, batch=64), size=16, progress=False)
    assert set(result.targets.tolist()) == {0, 1, 2}
