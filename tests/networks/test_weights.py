"""Networks build and run; weights that do not fit, or are not what they say, are refused before they do anything."""

import hashlib
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from datafree import files
from datafree.core.flops import count_macs, count_parameters
from datafree.core.metrics import top1
from datafree.data.sources import load_images
from datafree.errors import DataFreeError
from datafree.networks.weights import load_network, state_hash, training_record
from datafree.networks.zoo import SEGMENTERS, build_network

MEAN_STD = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
EMBEDDED = sorted({p.stem for p in (files.STUBS / "models").glob("*.safetensors")} - set(SEGMENTERS))


def test_there_is_an_embedded_network():
    assert EMBEDDED


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_weights_classify_the_embedded_images(name, stubs):
    model = load_network(name)
    assert not model.training
    accuracy = top1(model, load_images("cifar10-stub").per_class(20))
    record = training_record(name)
    assert abs(accuracy - record["test_top1"]) < 8  # 200 images: 2 % standard deviation
    assert record["command"].startswith(f"datafree train {name} ")
    assert len(record["log"]) == record["parameters"]["epochs"]
    assert record["model_parameters"] == count_parameters(model)
    assert record["macs"] == count_macs(model)


@pytest.mark.parametrize(("folder", "stub"), [("fashion-mnist", "fashion-mnist-stub"), ("digits", "digits-stub")])
def test_networks_of_other_images_classify_those(folder, stub):
    model, record = load_network("resnet20", trained_on=folder), training_record("resnet20", folder)
    images = load_images(stub).per_class(20)
    assert abs(top1(model, images) - record["test_top1"]) < 8  # 200 images: 2 % standard deviation
    assert top1(load_network("resnet20"), images) < 40, "the network of CIFAR-10 guesses"
    mean, std = (getattr(model.normalize, name).flatten().tolist() for name in ("mean", "std"))
    assert mean == pytest.approx(record["parameters"]["mean"]) and std == pytest.approx(record["parameters"]["std"])
    own = load_images(stub, "train").floats()
    assert mean[0] == pytest.approx(own.mean().item(), abs=0.02) and std[0] == pytest.approx(own.std().item(), abs=0.02)


def test_images_that_no_network_was_trained_on():
    with pytest.raises(DataFreeError, match="'slim_vgg' has no embedded weights of digits; give weights=NAME"):
        load_network("slim_vgg", trained_on="digits")


@pytest.mark.parametrize("name", EMBEDDED)
def test_records_of_training_name_no_machine(name):
    text = (files.STUBS / "models" / f"{name}.json").read_text()
    assert "/" not in json.loads(text)["parameters"]["data"]
    assert "/tmp/" not in text and "/home/" not in text and "/root/" not in text


def test_the_real_list_of_checksums_covers_the_embedded_networks(forget):
    for name in EMBEDDED:
        files.verified(files.STUBS / "models" / f"{name}.safetensors")


def test_networks_without_embedded_weights_ask_for_some():
    with pytest.raises(DataFreeError, match="'resnet56' has no embedded weights; give weights=NAME"):
        load_network("resnet56")
    with pytest.raises(DataFreeError, match="'resnet56' has no training record"):
        training_record("resnet56")


def test_one_changed_byte_of_the_embedded_weights_is_refused(stubs, forget):
    path = stubs / "models" / f"{EMBEDDED[0]}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    forget()
    with pytest.raises(DataFreeError, match="does not have the SHA-256"):
        load_network(EMBEDDED[0])


@pytest.fixture
def saved(tiny, tmp_path):
    """Write a state dict of Tiny, changed by `edit`, and return its path."""

    def save(edit=lambda state: state, name="w.pt", wrap=lambda state: state):
        state = edit({k: v.clone() for k, v in tiny().state_dict().items() if not k.startswith("normalize.")})
        path = tmp_path / name
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(wrap(state), path)
        return path

    return save


def prefixed(state):
    return {f"module.{k}": v for k, v in state.items()}


@pytest.mark.parametrize("name", ["w.pt", "w.th", "w.safetensors"])
@pytest.mark.parametrize("edit", [dict, prefixed])
def test_state_dicts_of_every_kind_give_the_same_network(saved, name, edit):
    path = saved(edit, name)
    model = load_network("tiny", path, **MEAN_STD)
    expected = load_file(path) if name.endswith("safetensors") else torch.load(path)
    assert torch.equal(model.conv.weight, expected.get("conv.weight", expected.get("module.conv.weight")))
    torch.testing.assert_close(model.normalize.std.flatten(), torch.tensor(MEAN_STD["std"]))


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_nested_state_dicts_are_found(saved, wrap):
    assert load_network("tiny", saved(prefixed, wrap=wrap), **MEAN_STD).conv.weight.isfinite().all()


def test_half_precision_weights_become_float32(saved):
    path = saved(lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()}, "w.safetensors")
    assert {p.dtype for p in load_network("tiny", path, **MEAN_STD).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "conv.weight"}, "the file lacks conv.weight"),
        (lambda s: s | {"conv.bias": torch.zeros(4)}, "has unexpected conv.bias"),
        (lambda s: s | {"linear.weight": torch.zeros(100, 4)}, "has other shapes for linear.weight"),
        (lambda s: s | {"bn.running_var": torch.full((4,), float("nan"))}, "NaN or infinity in bn.running_var"),
        (lambda s: s | {"linear.bias": torch.full((10,), float("inf"))}, "NaN or infinity in linear.bias"),
        (lambda s: {}, "lacks bn.bias, bn.running_mean, bn.running_var and others"),
        (lambda s: {1: torch.zeros(1)}, "holds no state dict"),
        (lambda s: {"epoch": 3}, "holds no state dict"),
        (lambda s: [torch.zeros(1)], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_say_what_is_wrong(saved, edit, message):
    with pytest.raises(DataFreeError, match=message):
        load_network("tiny", saved(edit), **MEAN_STD)


def test_missing_normalisation_is_asked_for(saved):
    with pytest.raises(DataFreeError, match=r"carry no input normalisation; give mean=\(...\) and std"):
        load_network("tiny", saved())


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.5, 0.5, 0.5)},
        {"mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.0, 0.5)},
        {"mean": (0.5, 0.5, float("nan")), "std": (0.5, 0.5, 0.5)},
    ],
)
def test_half_a_normalisation_is_refused(saved, settings):
    with pytest.raises(DataFreeError, match="mean and std must be given together"):
        load_network("tiny", saved(), **settings)


def test_a_normalisation_that_contradicts_the_file_is_refused(saved, tiny):
    own = tiny().state_dict()
    path = saved(lambda s: s | {k: v for k, v in own.items() if k.startswith("normalize.")})
    assert torch.equal(load_network("tiny", path).normalize.mean, own["normalize.mean"])
    with pytest.raises(DataFreeError, match="carry their own input normalisation"):
        load_network("tiny", path, **MEAN_STD)


def test_a_given_checksum_is_compared(saved):
    path = saved()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    load_network("tiny", path, sha256=digest.upper(), **MEAN_STD)
    with pytest.raises(DataFreeError, match="has SHA-256 .* expected 000000"):
        load_network("tiny", path, sha256="0" * 64, **MEAN_STD)


def test_a_missing_file_is_named(tiny, tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(DataFreeError, match="does not exist; give the path of a .safetensors, .pt or .th"):
            load_network("tiny", path, **MEAN_STD)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("length", [0, 7, 100, -100])
def test_truncated_files_are_refused(saved, name, length):
    path = saved(name=name)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataFreeError, match="cannot be read|not a valid safetensors file"):
        load_network("tiny", path, **MEAN_STD)


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tiny, tmp_path, writer):
    target, path = tmp_path / "touched", tmp_path / "w.pt"
    writer({"conv.weight": Bomb(target)}, path)
    with pytest.raises(DataFreeError, match="cannot be read as plain tensors .*could run code"):
        load_network("tiny", path, **MEAN_STD)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))  # the bomb works: only the loader stopped it
    assert target.exists()


def test_a_whole_pickled_network_is_refused(tiny, tmp_path):
    torch.save(build_network("resnet20"), tmp_path / "w.pt")
    with pytest.raises(DataFreeError, match="cannot be read as plain tensors"):
        load_network("resnet20", tmp_path / "w.pt", **MEAN_STD)


def test_the_hash_of_the_state_sees_one_changed_value(tiny):
    model = tiny()
    before = state_hash(model)
    assert state_hash(model.to(memory_format=torch.channels_last)) == before
    for tensor in model.state_dict().values():
        old = tensor.clone()
        tensor.flatten()[-1:].add_(1)
        if tensor.ndim == 4:
            tensor[-1, -1, -1, -1] += 1 if torch.equal(tensor, old) else 0
        assert state_hash(model) != before
        tensor.copy_(old)
    assert state_hash(model) == before
