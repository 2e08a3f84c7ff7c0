"""Fixtures that several test files share: a tiny network, a folder of images, a sealed copy of the embedded files."""

import functools
import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

from datafree import FRanDI, cli, files, inputs, torchvision_shim
from datafree.book import bench, caches
from datafree.core import batchnorm, training
from datafree.core.metrics import outputs
from datafree.data.images import ImageSet
from datafree.evidence import criteria
from datafree.evidence.record import digest
from datafree.networks.blocks import CIFAR_MEAN, CIFAR_STD, Normalize, conv_bn
from datafree.networks.weights import load_network
from datafree.networks.zoo import ARCHITECTURES, build_network
from datafree.papers.frandi import regression, selection, synthesis

caches.keep_here()
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Tiny(nn.Module):
    """Normalisation, convolution, BatchNorm, ReLU, linear layer: everything the methods look for, in milliseconds."""

    def __init__(self, classes: int = 10, mean=CIFAR_MEAN, std=CIFAR_STD):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.relu(self.bn(self.conv(self.normalize(x))))), 1))


@pytest.fixture
def tiny(monkeypatch):
    """The class Tiny, known to the library as model 'tiny'."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)
    torch.manual_seed(0)
    return Tiny


def write_images(root, count: int = 8, size: int = 8, classes=("dark", "light"), seed: int = 0) -> None:
    """ROOT/CLASS/NN.png: noise around one brightness a class."""
    rng = np.random.default_rng(seed)
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(60 + 70 * k, 90 + 70 * k, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.png")


@pytest.fixture
def folder(tmp_path):
    """A data set with a train and a test split: 2 classes, 16 and 8 images of 8 x 8."""
    write_images(tmp_path / "set" / "train", 8)
    write_images(tmp_path / "set" / "test", 4, seed=1)
    return tmp_path / "set"


@pytest.fixture
def forget():
    """Drop remembered checksums, before and after."""
    files.forget_checksums()
    yield files.forget_checksums
    files.forget_checksums()


@pytest.fixture
def stubs(tmp_path, monkeypatch, forget):
    """data_stubs as a copy that a test may damage; the library reads it in place of the real one."""
    copy = tmp_path / "data_stubs"
    shutil.copytree(files.STUBS, copy, ignore=shutil.ignore_patterns("*.resume", ".*"))
    monkeypatch.setattr(files, "STUBS", copy)
    files.seal()
    return copy


SHARED_DATA = Path(os.environ.get("DATAFREE_SHARED", files.ROOT.parent / "shared" / "data"))
"""Inputs as the registry wants them, where somebody keeps them: DATAFREE_SHARED, or a folder beside the checkout."""


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache of inputs with links to all that lies in SHARED_DATA; the tests that need it are skipped without."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"skipped: no folder '{SHARED_DATA}' to take inputs from; DATAFREE_SHARED may name another")
    cache = tmp_path_factory.mktemp("cache")
    for entry in inputs.registry().values():
        if (SHARED_DATA / entry.file).exists() and not entry.by_pixels:
            (cache / entry.file).parent.mkdir(parents=True, exist_ok=True)
            (cache / entry.file).symlink_to(SHARED_DATA / entry.file)
    given = os.environ.get("DATAFREE_CIFAR10")
    if given:
        (cache / "cifar10").symlink_to(Path(given).absolute())
    return cache


@pytest.fixture
def shared(shared_cache, monkeypatch):
    """The library takes its inputs from `shared_cache`."""
    monkeypatch.setenv("DATAFREE_CACHE", str(shared_cache))
    return shared_cache


@pytest.fixture
def run_cli(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datafree", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def with_statistics(net, side: int = 32, batch: int = 4, seed: int = 0):
    """`net` in evaluation mode, its BatchNorm layers with random scale (a third negative), shift and measured statistics."""
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms:
        sign = torch.where(torch.rand(norm.num_features, generator=generator) < 1 / 3, -1.0, 1.0)
        norm.weight.data = sign * (0.3 + torch.rand(norm.num_features, generator=generator))
        norm.bias.data = 0.5 * torch.randn(norm.num_features, generator=generator)
        norm.momentum = 1.0
    with torch.no_grad():
        net.eval()
        for norm in norms:
            norm.train()
        net(torch.rand(batch, 3, side, side, generator=generator))
    return net.eval()


def interrupt_training(monkeypatch, config, out, after: int):
    """Run until step `after`, then stop as ^C does."""
    step, done = torch.optim.SGD.step, []

    def counting(self, *arguments):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", counting)
        with pytest.raises(KeyboardInterrupt):
            training.train(config, out)


OWN_NETWORKS = ("resnet20", "mobilenet_v2_small", "slim_vgg", "resnet44")


OTHER_NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "vgg16_bn", "efficientnet_b0", "densenet121", "googlenet")


def network_named(name):
    if name in OWN_NETWORKS:
        return load_network(name) if name != "resnet44" else with_statistics(build_network(name))
    torchvision_shim.install()
    import torchvision

    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(**({"init_weights": False} if name == "googlenet" else {}))
    if name == "vgg16_bn":  # 4096 features do not fit into a test
        net.classifier = nn.Sequential(nn.Linear(512 * 49, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 5))
    return with_statistics(net, side=64, batch=2)


def with_inputs_and_outputs(net, x, modules):
    """Output of the network, and (input, output) of the named modules."""
    seen, handles = {}, []
    for name in modules:
        keep = lambda _, args, out, name=name: seen.__setitem__(name, (args[0].clone(), out.clone()))  # noqa: E731
        handles.append(net.get_submodule(name).register_forward_hook(keep))
    with torch.no_grad():
        out = net(x)
    for handle in handles:
        handle.remove()
    return out, seen


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def uneven_network(act=nn.ReLU, seed=0, double=True):
    """conv, depthwise, strided grouped conv, conv, pooling to 2 x 2, linear; channel ranges far apart."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), act(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), act(),
        nn.Conv2d(8, 12, 3, stride=2, groups=4), nn.BatchNorm2d(12), act(),
        nn.Conv2d(12, 6, 1), act(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    for layer in (net[0], net[3], net[6], net[9]):
        layer.weight.data *= torch.exp(2 * torch.randn(len(layer.weight))).view(-1, 1, 1, 1)
    net = with_statistics(net, side=16)
    return net.double() if double else net


class SmallNet(nn.Module):
    """Stem and three convolutions of 8 channels with BatchNorm on 8 x 8 images; milliseconds a pass."""

    def __init__(self, classes: int = 5):
        super().__init__()
        self.normalize = Normalize()
        layers = [m for i in (3, 8, 8, 8) for m in conv_bn(i, 8)]
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(8, classes)

    def forward(self, x):
        return self.linear(torch.flatten(self.pool(self.body(self.normalize(x))), 1))


def quick_frandi(**settings):
    made = synthesis.Synthesis(steps=2, images=4, precision="float32")
    taught = regression.Recovery(steps=2, precision="float32")
    usual = dict(candidates=3, tolerance=0.05, reduction=2.0, synthesis=made, recovery=taught, precision="float32")
    return FRanDI(**(usual | settings))


def scores_one_by_one(factors, rows, images, calibrated):
    """The score of each candidate from the network itself."""
    wanted, scores = outputs(factors.model, images), []
    for row in rows:
        student = factors.network(dict(zip(factors.layers, row)))
        if calibrated:
            batchnorm.recalibrate(student, images)
        scores.append(selection.output_discrepancy(outputs(student, images), wanted).item())
    return scores


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Records and the build in a folder of the test; facts and the library stay the project's."""
    monkeypatch.setattr(files, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(files, "RECORDS", tmp_path / "records")
    monkeypatch.delenv("DATAFREE_RECORD", raising=False)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


RECORDED = "01_kw_synthesis"


def record_of(metrics=None, profile="book", seed=0, overrides=None, **more):
    """The content of a record of RECORDED with these metrics, as a run leaves it."""
    content = {
        "notebook": RECORDED,
        "profile": profile,
        "seed": seed,
        "parameters": {"test_images": 1000, "steps": 40},
        "overrides": overrides or {},
        "command": f"datafree run {RECORDED} --profile {profile} --seed {seed}",
        "provenance": {"git": {"commit": "a" * 40, "dirty": False}, "machine": {"system": "Linux", "threads": 2}},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.0,
        "peak_memory_mb": 345.0,
        "inputs": {},
        "fingerprint": "",
        "metrics": metrics or {},
        "hits": {},
    } | more
    return content | {"digest": digest(content)}


def leave_record(metrics=None, profile="book", seed=0, fresh=False, **more):
    """Write such a record where the ledger looks for it: among the committed ones, or the fresh ones of the build."""
    folder = (files.BUILD / "records" if fresh else files.RECORDS) / profile / RECORDED
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{seed}.json"
    path.write_text(json.dumps(record_of(metrics, profile, seed, **more)))
    return path


@pytest.fixture
def register(tmp_path, monkeypatch):
    """An empty register of criteria, and the papers' claims without notes; returns the decorator that fills it."""
    criteria.load()
    monkeypatch.setattr(criteria, "CRITERIA", {})
    papers = tmp_path / "papers"
    shutil.copytree(files.PAPERS, papers, ignore=shutil.ignore_patterns("notes.yaml"))
    monkeypatch.setattr(files, "PAPERS", papers)
    return functools.partial(criteria.criterion, chapter=RECORDED, unit="points")


@pytest.fixture
def gain(register):
    """One made-up criterion: kw-c12 holds where the metric 'gain' is above zero."""

    @register("kw-c12")
    def above_zero(run):
        """The gain is above zero."""
        return criteria.above(run.metric("gain"))


def write_chapter(places, *cells):
    """The notebook RECORDED of markdown and ('code', source) cells."""
    made = [nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else nbformat.v4.new_code_cell(c[1]) for c in cells]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    path = places / "notebooks" / f"{RECORDED}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=language), path)


def named_pixels(count=7, side=8, classes=5):
    """Images whose pixels say their own class: label k where the value is k."""
    labels = torch.randint(0, classes, (count, side, side), generator=seeded())
    pixels = labels[:, None].expand(-1, 3, -1, -1).to(torch.uint8).contiguous()
    return ImageSet(pixels, labels.to(torch.int8), [str(k) for k in range(classes)], "named")


@pytest.fixture(scope="session")
def others_metrics():
    """torchmetrics' functions for classification; it imports torchvision, which may need our shim."""
    torchvision_shim.install()
    from torchmetrics.functional import classification

    return classification


class TwoConvolutions(nn.Module):
    """conv, BatchNorm, relu, conv, BatchNorm: the derivation's setting. Without padding, so intercepts are exact."""

    def __init__(self, channels=6, positive=False, seed=0, norm=True):
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, channels, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, 4, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(4) if norm else nn.Identity()
        for layer in (self.bn1, self.bn2) if norm else (self.bn1,):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_()
            layer.running_var.uniform_(0.5, 1.5)
        if positive:  # every activation is above zero for images in [0, 1]
            self.conv1.weight.data.abs_()
            self.bn1.bias.data.uniform_(0.5, 1.0)
        self.eval()

    def forward(self, x):
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


def _spread(middle):
    return bench.Spread(low=middle / 2, median=middle, high=2 * middle)


def speed_record(text="x", growth=True):
    """A record of the benchmarks with `text` wherever words stand."""
    words = dict(group=text, ours=text, theirs=text)
    pair = bench.Sides(ours=0.0123, theirs=1.5)
    plain = bench.Comparison(name="plain", seconds=pair, ratio=_spread(0.0082), repeats=3, **words)
    whole = plain.model_copy(
        update=dict(name="whole " + text, note=text, share=0.01, peak_mb=pair, difference=2e-6, points=pair)
    )
    grown = bench.Growth(
        name="step", axis="batch", sizes=[1, 2], seconds=[_spread(1.0), _spread(2.0)], slope=_spread(1.0)
    )
    return bench.Bench(
        command="make bench", written="2026-01-02", commit="a" * 40, machine="Linux", packages={"torch": "2"}, seconds=61.0,
        cpu_seconds=59.0, comparisons=[plain, whole], absent=[bench.Absent(name="gone", group=text, theirs=text, reason=text)],
        growth=[grown] * growth,
    )  # fmt: skip


def leave_speed(made):
    """Put a record of the benchmarks where the committed one lies."""
    files.RECORDS.mkdir(parents=True, exist_ok=True)
    bench.committed().write_text(made.model_dump_json())
