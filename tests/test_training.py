"""Training: what it writes, how it goes on after an interruption, and how it stops."""

import json
import shlex

import pytest
import torch
from conftest import interrupt_training, write_images
from safetensors.torch import load_file
from torch import nn

from datafree.config import from_text, pairs, validate
from datafree.core import training
from datafree.core.flops import count_parameters
from datafree.core.metrics import top1
from datafree.data.images import ImageSet
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks import own
from datafree.networks.weights import load_network
from datafree.networks.zoo import build_network


@pytest.fixture
def config(tiny, folder):
    """Two epochs of two steps of the tiny network on the folder of images, in float32."""

    def make(**changes):
        values = dict(model="tiny", data=f"folder:{folder}", epochs=2, batch=8, rate=0.05, bf16=False)
        return validate(training.TrainConfig, values | changes)

    return make


def files(path):
    return sorted(p.name for p in path.parent.iterdir() if p.is_file())


def test_a_run_writes_weights_and_their_record(config, tmp_path):
    out = tmp_path / "w.safetensors"
    returned = training.train(config(), out)
    record = json.loads(out.with_suffix(".json").read_text())
    assert record == json.loads(json.dumps(returned))
    assert files(out) == ["w.json", "w.safetensors"]
    assert record["command"].startswith("datafree train tiny -p data=folder:set -p epochs=2 -p batch=8 -p rate=0.05")
    assert record["parameters"]["data"] == "folder:set" and str(tmp_path) not in json.dumps(record)
    assert torch.__version__.startswith(record["provenance"]["packages"]["torch"])  # without the name of its build
    assert [row["epoch"] for row in record["log"]] == [0, 1]
    assert record["test_images"] == 8 and record["test_top1"] == record["log"][-1]["test_top1"]
    model = load_network("tiny", out, classes=2)
    assert record["model_parameters"] == count_parameters(model)
    assert model.bn.num_batches_tracked == 4


def test_training_learns(config, tmp_path):
    """Brightness is easy: at the end the loss is well below chance and the test images are right."""
    record = training.train(config(epochs=15, rate=0.1), tmp_path / "w.safetensors")
    assert record["log"][-1]["train_loss"] < 0.5 * record["log"][0]["train_loss"]
    assert record["test_top1"] > 80


def test_bf16_trains_too(config, tmp_path):
    record = training.train(config(epochs=1, bf16=True), tmp_path / "w.safetensors")
    assert 0 < record["log"][0]["train_loss"] < 3


def test_weights_in_half_are_half_the_size_and_the_score_is_theirs(config, folder, tmp_path):
    record = training.train(config(half=True), tmp_path / "w.safetensors")
    stored = load_file(tmp_path / "w.safetensors")
    assert {v.dtype for v in stored.values() if v.is_floating_point()} == {torch.float16}
    model = load_network("tiny", tmp_path / "w.safetensors", classes=2)
    assert record["test_top1"] == top1(model, load_images(f"folder:{folder}", "test"))


def halves(count=8, side=32):
    """Images whose left half is class 0 and black, the right half class 1 and white."""
    labels = torch.zeros(count, side, side, dtype=torch.int8)
    labels[:, :, side // 2 :] = 1
    pixels = (255 * labels[:, None].expand(-1, 3, -1, -1)).to(torch.uint8).contiguous()
    return ImageSet(pixels, labels, ["left", "right"], "halves")


def test_labels_are_enlarged_and_cropped_with_their_pixels(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "load_images", lambda *_, **__: halves())
    asked = validate(training.TrainConfig, dict(model="segmenter", data="scenes", batch=8, zoom=2.0))
    trainer = training.Trainer(asked, tmp_path / "w.safetensors")
    shares = []
    for _ in range(20):
        x, y = trainer.draw(torch.arange(8))
        assert x.shape == (8, 3, 32, 32) and y.shape == (8, 32, 32)
        assert ((x.mean(1) > 0.5) == (y == 1)).float().mean() > 0.95  # only the edge between them is blurred
        shares.append((y == 1).float().mean((1, 2)))
    assert torch.cat(shares).std() > 0.1  # enlarged, the crops are of other places


@pytest.mark.parametrize("after", [1, 3, 4, 5])  # within the first epoch, the second, at its end, in the third
def test_an_interrupted_run_goes_on_and_ends_the_same(monkeypatch, config, tmp_path, after):
    whole, parts = tmp_path / "a" / "w.safetensors", tmp_path / "b" / "w.safetensors"
    expected = training.train(config(epochs=3), whole)
    interrupt_training(monkeypatch, config(epochs=3), parts, after)
    assert parts.with_suffix(".resume").is_file() == (after >= 2) and not parts.is_file()
    record = training.train(config(epochs=3), parts)
    assert files(parts) == ["w.json", "w.safetensors"]
    for a, b in zip(record["log"], expected["log"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["rate"] == b["rate"] and a["test_top1"] == pytest.approx(b["test_top1"], abs=13)  # one image of 8
    ours, theirs = load_file(parts), load_file(whole)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)


def test_progress_of_other_parameters_is_refused(monkeypatch, config, tmp_path):
    out = tmp_path / "w.safetensors"
    interrupt_training(monkeypatch, config(), out, 3)
    with pytest.raises(DataFreeError, match="belongs to a run with other parameters; delete it or use another --out"):
        training.train(config(rate=0.06), out)
    assert files(out) == ["w.resume"]


@pytest.mark.parametrize("content", [b"", b"no progress", None])
def test_damaged_progress_is_refused(monkeypatch, config, tmp_path, content):
    out = tmp_path / "w.safetensors"
    interrupt_training(monkeypatch, config(), out, 3)
    resume = out.with_suffix(".resume")
    resume.write_bytes(resume.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataFreeError, match="cannot be read; delete it to start again"):
        training.train(config(), out)


@pytest.mark.parametrize(("rate", "epochs"), [(1e9, 8), (1e38, 1), (1e38, 3)])
def test_a_diverged_run_is_one_sentence_and_no_file(config, tmp_path, rate, epochs):
    out = tmp_path / "w.safetensors"
    with pytest.raises(DataFreeError, match="training diverged: .*; use a smaller rate"):
        training.train(config(rate=rate, epochs=epochs), out)
    assert files(out) == []


def test_weights_that_end_as_nan_are_not_written(monkeypatch, config, tmp_path):
    """The last step of a run is followed by no loss that could tell."""
    step = torch.optim.SGD.step

    def poisoned(self, *arguments):
        step(self, *arguments)
        self.param_groups[0]["params"][0].data.fill_(float("nan"))

    monkeypatch.setattr(torch.optim.SGD, "step", poisoned)
    with pytest.raises(DataFreeError, match="diverged: the weights are NaN or infinite"):
        training.train(config(epochs=1, batch=16), tmp_path / "w.safetensors")
    assert files(tmp_path / "w.safetensors") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "huge"}, "model 'huge' is not known"),
        ({"data": "folder:/none"}, "data folder '/none' does not exist"),
        ({"data": "mnist"}, "needs root=PATH"),
        ({"batch": 17}, "has 16 images, fewer than one batch of 17"),
    ],
)
def test_mistakes_are_told_before_any_work(config, tmp_path, changes, message):
    with pytest.raises(DataFreeError, match=message):
        training.train(config(**changes), tmp_path / "w.safetensors")
    assert files(tmp_path / "w.safetensors") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch": 1},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"momentum": 1.0},
        {"epochs": "4"},
        {"speed": 1},
    ],
)
def test_settings_out_of_range_are_refused(config, changes):
    with pytest.raises(DataFreeError, match=f"parameter '{next(iter(changes))}'"):
        config(**changes)


def test_splits_with_other_classes_are_refused(config, folder, tmp_path):
    write_images(folder / "train", 1, classes=("dark", "light", "middle")[2:])
    with pytest.raises(DataFreeError, match="differ in their classes"):
        training.train(config(), tmp_path / "w.safetensors")


def test_weights_need_the_right_ending(config, tmp_path):
    with pytest.raises(DataFreeError, match="give one that ends in '.safetensors'"):
        training.train(config(), tmp_path / "w.json")


def test_decay_is_for_matrices_only(config, tmp_path):
    trainer = training.Trainer(config(decay=0.1), tmp_path / "w.safetensors")
    with_decay, without = trainer.optimizer.param_groups
    assert [p.ndim for p in with_decay["params"]] == [4, 2] and with_decay["weight_decay"] == 0.1
    assert {p.ndim for p in without["params"]} == {1} and without["weight_decay"] == 0


def test_strided_depthwise_layers_compute_the_same_function():
    torch.manual_seed(0)
    model = build_network("mobilenet_v2_small").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        training.strided_depthwise_in_float(model)
        torch.testing.assert_close(model(x), before)
    changed = [m for m in model.modules() if isinstance(m, nn.Conv2d) and "forward" in m.__dict__]
    assert changed and all(m.groups == m.in_channels and m.stride[0] > 1 for m in changed)
    with torch.autocast("cpu", torch.bfloat16):
        assert changed[0](torch.rand(1, changed[0].in_channels, 8, 8)).dtype == torch.float32


def test_a_normalisation_of_ones_own_is_kept_with_the_weights_and_in_the_command(config, tmp_path):
    own = {"mean": (0.3, 0.2, 0.1), "std": (0.3, 0.3, 0.4)}
    record = training.train(config(epochs=1, **own), tmp_path / "w.safetensors")
    assert "-p 'mean=0.3 0.2 0.1' -p 'std=0.3 0.3 0.4' -p epochs=1" in record["command"]
    model = load_network("tiny", tmp_path / "w.safetensors", classes=2)
    assert model.normalize.mean.flatten().tolist() == pytest.approx(own["mean"])
    assert model.normalize.std.flatten().tolist() == pytest.approx(own["std"])
    usual = training.train(config(epochs=1), tmp_path / "v.safetensors")
    assert "mean=" not in usual["command"]


@pytest.mark.parametrize(
    "changes", [{}, {"rate": 1e-05, "momentum": 0.5, "bf16": True}, {"mean": (0.3, 0.2, 0.1), "seed": 7}]
)
def test_the_command_gives_the_same_settings_again(config, tmp_path, changes):
    """Read as the shell and the command line read it."""
    made = config(**changes, data="folder:/some where/set")
    words = shlex.split(training.command(made, tmp_path / "w.safetensors"))
    assert words[:3] == ["datafree", "train", "tiny"] and words[-2:] == ["--out", "w.safetensors"]
    assert set(words[3:-2:2]) == {"-p"}
    read = from_text(training.TrainConfig, pairs(words[4:-2:2]))
    assert read.pop("data") == "folder:set", "no paths of a machine"
    assert training.TrainConfig(model="tiny", data=made.data, **read) == made


@pytest.mark.parametrize("std", [(0.2, 0.2, 0.0), (0.2, 0.2, -1.0)])
def test_a_spread_of_zero_is_refused(config, std):
    with pytest.raises(DataFreeError, match="'std.2'.*greater than 0"):
        config(std=std)


def test_a_network_of_ones_own_is_trained_and_stored_without_its_normalisation(config, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\n\ndef build():\n    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()]\n"
        "    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))\n"
    )
    training.train(config(model=f"{file}:build"), tmp_path / "w.safetensors")
    assert {name.split(".")[0] for name in load_file(tmp_path / "w.safetensors")} == {"0", "1", "5"}
    mean, std = training.CIFAR_MEAN, training.CIFAR_STD
    own.load_own(f"{file}:build", tmp_path / "w.safetensors", mean=mean, std=std)
    file.write_text(file.read_text().replace("nn.Linear(4, 2)", "nn.Linear(4, 3)"))
    with pytest.raises(DataFreeError, match="has 2 classes, .* gives 3 scores"):
        training.train(config(model=f"{file}:build"), tmp_path / "v.safetensors")
