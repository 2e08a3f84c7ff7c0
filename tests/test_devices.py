"""Devices: the library follows the network and the images it is given, and makes nothing anywhere else.

Without a card this is seen under a default device that holds no values: whatever is made without saying where is then of
another device than network and images, and the next operation fails.
"""

import copy

import pytest
import torch
from conftest import SmallNet, quick_frandi, with_statistics

from datafree import api
from datafree.baselines import (
    aciq,
    adaround,
    adversarial_distillation,
    deep_inversion,
    dfq,
    feature_losses,
    gdfq,
    zaq,
    zeroq,
)
from datafree.beyond.one_pass import OnePass, thinned
from datafree.core import batchnorm, metrics, observers, pruning, quantized
from datafree.core.graph import fold_all, trace
from datafree.core.optimization import FitConfig
from datafree.core.training import TrainConfig, train
from datafree.data import corruptions
from datafree.data.images import ImageSet, generated, random_crop_and_mirror
from datafree.papers.frandi import factorization, magnitude, regression, selection
from datafree.papers.frandi import synthesis as frandi_synthesis
from datafree.papers.frandi.quantization import FRanDIQuantization
from datafree.papers.knowledge_within import calibration, correspondence, distillation, intervals, synthesis
from datafree.papers.layerwise import comparison
from datafree.papers.layerwise.pruning import LayerWisePruning
from datafree.papers.layerwise.quantization import LayerWise
from datafree.papers.udfc.compression import UDFC

SHAPE = (3, 8, 8)
SYNTHESIS = synthesis.SynthesisConfig(batch=6, steps=2, copies=2, kernel=3, precision="float32")
FRANDI = quick_frandi()
DISTILL = distillation.DistillConfig(steps=2, batch=4, precision="float32", batchnorm="frozen")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return with_statistics(SmallNet(), side=8)


@pytest.fixture(scope="module")
def images():
    pixels = torch.randint(0, 256, (20, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(20) % 5, list("abcde"), "noise")


@pytest.fixture
def nowhere(net, images):
    """Everything made without a device has no values."""
    with torch.device("meta"):
        yield


def quick_settings():
    """Settings of every method that take no time: each way through its code, as far as devices are concerned."""
    return {
        "knowledge_within": [calibration.KnowledgeWithin(
            scheme=scheme, images=6, steps=1, batch=4, chunk=2, synthesis_steps=1, copies=2, distillation=DISTILL
        ) for scheme in synthesis.SCHEMES],
        "layer_wise": [LayerWise(ranges=r, samples=50, grid=5, first=f, per_channel=p) for r, f, p in (
            ("search", "normal", False), ("six_sigma", "pixels", True), ("extremes", "normal", False)
        )],
        "layer_wise_pruning": [LayerWisePruning(steps=2, batch=4, inputs=i, source=s) for i in ("drawn", "expected")
                              for s in ("batchnorm", "standard")],
        "udfc": [UDFC(prune_ratio=0.3, weight_bits=4, repair=repair, criterion=criterion) for repair, criterion in (
            ("closed_form", "l2"), ("none", "l1"), ("bias", "residual"), ("gaussian", "residual"), ("merging", "l2"), ("images", "l2")
        )],
        "frandi": [FRANDI, FRANDI.model_copy(update={"compressor": "magnitude", "calibrated": True})],
        "frandi_quantization": [FRanDIQuantization(
            synthesis=FRANDI.synthesis, recovery=FRANDI.recovery, ranges=r
        ) for r in ("extremes", "percentile", "mse")],
    }  # fmt: skip


def test_every_method_has_settings_here():
    assert set(quick_settings()) == set(api.METHODS)


@pytest.mark.parametrize(
    ("name", "number"), [(name, k) for name, many in quick_settings().items() for k in range(len(many))]
)
def test_every_method_stays_where_the_network_is(net, images, nowhere, name, number):
    config = quick_settings()[name][number]
    taken = api.METHODS[name].takes_images and number == 0 and name != "udfc"
    pools = [images] if getattr(config, "repair", "") == "images" else [None, images] if taken else [None]
    for pictures in pools:
        result = api.compress(net, config, pictures, shape=SHAPE)
        assert all(value.device.type == "cpu" for value in result.model.state_dict().values())
        assert 0 <= api.evaluate(result.model, images)["top1"] <= 100


def test_one_pass_stays_where_the_network_is(net, images, nowhere):
    student, kept = thinned(net, images, 0.5)
    split = factorization.Factorizer(net, SHAPE)
    for small, left in ((quantized.prepare(student, 2, 4), kept), (split.network(split.uniform(1.5)), {})):
        found = OnePass(small, net, images, kept=left).run()
        assert all(value.device.type == "cpu" for value in found.state_dict().values())
        assert 0 <= metrics.top1(found, images) <= 100


def test_images_that_are_made_lie_where_the_network_is(net, nowhere):
    """Every scheme, its snapshots, FRanDI's images, and those of the baselines."""
    made = [
        synthesis.image_set(net, SYNTHESIS.model_copy(update={"scheme": s}), 8, size=8).pixels
        for s in synthesis.SCHEMES
    ]
    made += synthesis.snapshots(net, SYNTHESIS, [0, 2], size=8).values()
    made.append(frandi_synthesis.synthesize(net, FRANDI.synthesis, SHAPE)[0].pixels)
    made.append(zeroq.distilled_images(net, zeroq.ZeroQConfig(steps=2, batch=4), SHAPE)[0].pixels)
    made.append(deep_inversion.invert(net, deep_inversion.InversionConfig(steps=2, batch=4), 4, SHAPE)[0].pixels)
    assert all(pixels.device.type == "cpu" and torch.isfinite(pixels).all() for pixels in made)


def test_images_are_kept_and_read_back(net, nowhere, tmp_path):
    first, second = (synthesis.image_set(net, SYNTHESIS, 8, tmp_path / "made.safetensors", 8) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("objective", ["kl", "cross_entropy"])
def test_students_learn_where_they_are(net, images, nowhere, optimizer, objective):
    student = copy.deepcopy(net)
    config = DISTILL.model_copy(update={"optimizer": optimizer, "objective": objective, "mixing": objective == "kl"})
    assert len(distillation.distill(student, net, images, config, progress=False)) == 2


def test_intervals_learn_where_they_are(net, nowhere):
    student = quantized.prepare(net, 4, 4)
    calibration.calibrate(
        student, generated(torch.rand(8, *SHAPE, device="cpu"), "x"), calibration.KnowledgeWithin(steps=1, batch=4)
    )
    assert len(intervals.distill_intervals(student, net, FitConfig(steps=2), batch=4, progress=False, shape=SHAPE)) == 2


@pytest.mark.parametrize("observer", [observers.MinMaxObserver, observers.PercentileObserver, observers.MSEObserver,
                                      observers.ExactSearchObserver, observers.MovingAverageMinMaxObserver])  # fmt: skip
def test_ranges_are_measured_where_the_network_is(net, images, nowhere, observer):
    student = quantized.prepare(net, 4, 4)
    quantized.calibrate(student, (x for x, _ in images.batches(10)), observer)
    assert metrics.outputs(quantized.convert(student), images).device.type == "cpu"


def test_features_are_regressed_where_they_are(net, images, nowhere):
    for factors in (factorization.Factorizer(net, SHAPE), magnitude.Pruner(net, SHAPE)):
        ranks = selection.search(factors, images, FRANDI).ranks
        student, config = factors.network(ranks), FRANDI.recovery
        with factors.held(student, ranks):
            for position in ("conv", "norm"):
                work = regression.Regression(
                    student, net, list(ranks), images, config.model_copy(update={"position": position})
                )
                assert len(work.run()) == config.steps


def test_baselines_of_the_layerwise_paper_stay_where_the_network_is(net, nowhere):
    config, graph = LayerWise(samples=50, grid=5), trace(net)
    moments = {
        name: batchnorm.Moments(*pair)
        for name, pair in zip([n for n, _ in batchnorm.layers(net)], batchnorm.stored(net))
    }
    assert torch.isfinite(dfq.input_range(graph.feeding("linear"), moments, 8)[0])
    rounded = comparison.adaround_imitated(net, config, adaround.AdaRoundConfig(steps=3, batch=8))
    pool = zeroq.distilled_images(net, zeroq.ZeroQConfig(steps=1, batch=4), SHAPE)[0]
    game = adversarial_distillation.AdversarialConfig(steps=2, batch=4, width=4, latent=4)
    rival = copy.deepcopy(net)
    gdfq.train(rival, net, gdfq.GDFQConfig(steps=2, batch=4, width=4, latent=4, start=1), SHAPE)
    zaq.train(rival, net, ["body.0", "body.9"], zaq.ZAQConfig(steps=2, batch=4, width=4, latent=4), SHAPE)
    aciq.set_ranges(quantized.prepare(net, 4, 4), graph, moments)
    students = [rival, rounded, comparison.zeroq_ranges(net, config, pool),
                comparison.deep_inversion(net, config, pool, FitConfig(steps=2), batch=4),
                comparison.adversarial(net, config, game, SHAPE)]  # fmt: skip
    assert all(torch.isfinite(metrics.outputs(student, pool)).all() for student in students)


def test_statistics_and_scores_are_computed_where_the_images_are(net, images, nowhere):
    per_image = batchnorm.image_moments(net, images)
    order = torch.Generator().manual_seed(0)
    assert torch.isfinite(batchnorm.group_divergences(per_image, batchnorm.stored(net), 4, order)).all()
    assert batchnorm.j_kl(net, images) > 0 and batchnorm.j_kl(net, images, 10) > 0
    batchnorm.recalibrate(copy.deepcopy(net), images)
    moved = correspondence.fgsm(images, correspondence.loss_gradient_sign(net, images), 0.1, scale=[1.0, 1.0, 1.0])
    assert moved.pixels.device.type == "cpu" and 0 <= metrics.top1(net, images) <= 100
    by_layer = {"a": torch.rand(5, device="cpu"), "b": torch.rand(3, device="cpu")}
    for scope in ("layer", "global"):
        assert all(kept.device.type == "cpu" for kept in pruning.choose(by_layer, 0.4, scope).values())
    maps = torch.rand(2, 4, 3, 3, device="cpu"), torch.rand(2, 4, 3, 3, device="cpu")
    for loss in (feature_losses.fitnets, feature_losses.attention):
        assert torch.isfinite(loss(*maps))


def test_images_are_changed_where_they_are(images, nowhere):
    changed = [images.per_class(2).pixels, images[3].pixels, random_crop_and_mirror(images.floats(), torch.Generator())]
    changed += [corruptions.corrupted(images, kind, 1).pixels for kind in corruptions.SEVERITIES]
    changed.append(corruptions.greyscale(images).pixels)
    assert all(pixels.device.type == "cpu" for pixels in changed)


def test_folding_stays_where_the_network_is(net, images, nowhere):
    assert torch.isfinite(metrics.outputs(fold_all(net), images)).all()


def test_random_numbers_are_those_of_the_processor_on_every_device(net):
    """A generator lives on the processor: the same seed draws the same images wherever the network is."""
    elsewhere = copy.deepcopy(net).to("meta")
    made = synthesis.gaussian_images(elsewhere, 2, 8, torch.Generator().manual_seed(0))
    assert made.device.type == "meta" and made.shape == (2, *SHAPE)


CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="skipped: there is no CUDA card")


@CARD
def test_a_chapter_runs_on_a_card(run_cli, tmp_path):
    out, record = tmp_path / "00.ipynb", tmp_path / "00.json"
    code, _, err = run_cli(
        "run", "00_start", "--profile", "smoke", "--device", "cuda", "--out", out, "--record", record, "--no-bar"
    )
    assert code == 0, err


@CARD
@pytest.mark.parametrize("name", sorted(api.METHODS))
def test_every_method_runs_on_a_card(net, images, name):
    there, config = copy.deepcopy(net).to("cuda"), quick_settings()[name][0]
    result = api.compress(there, config, shape=SHAPE)
    assert all(value.is_cuda for value in result.model.state_dict().values())
    assert 0 <= api.evaluate(result.model, images.to("cuda"))["top1"] <= 100


@pytest.mark.parametrize("command", ["train", "compress", "evaluate", "synthesize", "run"])
def test_every_command_that_computes_takes_a_device(run_cli, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, out, _ = run_cli(command, "--help")
    assert "--device" in out
    words = {"synthesize": [], "run": ["00_start"]}.get(command, ["resnet20"])
    words += ["--out", "x.safetensors"] if command in ("train", "compress") else []
    code, _, err = run_cli(command, *words, "--device", "cuda")
    assert code == 2 and "'cuda' is not there" in err


def test_training_puts_network_and_images_on_the_device(folder, tmp_path, tiny):
    config = TrainConfig(model="tiny", data=f"folder:{folder}", epochs=1, batch=8)
    assert train(config, tmp_path / "out.safetensors", "cpu")["test_images"] == 8
