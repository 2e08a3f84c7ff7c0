"""Trained weights: the embedded ones, and a safe way to load anybody's."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from torch import nn

from .. import files, inputs
from ..config import device_named, suggestion
from ..errors import DataFreeError
from . import efficientnet, enet, mobilenet
from .classifiers import TORCHVISION_MODELS, torchvision_state
from .zoo import CIFAR_RESNETS, IMAGENET_MODELS, build_network, known_network


def _torch_file(path: Path) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise DataFreeError(
            f"weights file '{path}' cannot be read as plain tensors ({reason}); it is corrupt or holds Python "
            "objects that could run code. Give a state dict saved with torch.save or safetensors."
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    return state


def read_state(path: str | Path, name: str | None = None) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors, .pt, .pth or .th; never runs code from the file; strips 'module.'.

    Args:
        name: what the file is called in a record; default: its own name.
    """
    path = Path(path)
    if not path.is_file():
        raise DataFreeError(
            f"weights file '{path}' does not exist{suggestion(str(path), inputs.names('weights'))}; give the path of a "
            ".safetensors, .pt or .th file, or a name that `datafree inputs` lists."
        )
    if not path.is_relative_to(files.STUBS):
        files.READ[name or path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except Exception as error:
            raise DataFreeError(f"weights file '{path}' is not a valid safetensors file ({error}).") from None
    else:
        state = _torch_file(path)
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise DataFreeError(f"weights file '{path}' holds no state dict (names to tensors).")
    return {key.removeprefix("module."): value for key, value in state.items()}


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise if the file's SHA-256 is not the expected one."""
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != expected.lower():
        raise DataFreeError(
            f"'{path}' has SHA-256 {found[:16]}..., expected {expected[:16]}...: the file is corrupt or was replaced. "
            "Fetch it again, or give the SHA-256 of the file you mean."
        )


def load_state(model: nn.Module, state: dict[str, torch.Tensor], source: str) -> nn.Module:
    """Copy a state dict into `model`, naming what is missing, unexpected or of another shape."""
    own = model.state_dict()
    # weights of torchvision, without the name of our wrapper
    if hasattr(model, "network") and not any(k.startswith("network.") for k in state):
        state = {f"network.{k}": v for k, v in state.items()}
    state = {k: v.to(torch.float32) if v.is_floating_point() else v for k, v in state.items()}
    # not every file carries the normalisation or the count of batches
    optional = {k for k in own if k.startswith("normalize.") or k.endswith("num_batches_tracked")}
    missing = sorted(set(own) - set(state) - optional)
    unexpected = sorted(set(state) - set(own))
    shapes = [k for k in state if k in own and own[k].shape != state[k].shape]
    for what, names in (("lacks", missing), ("has unexpected", unexpected), ("has other shapes for", shapes)):
        if names:
            raise DataFreeError(
                f"weights from {source} do not fit {type(model).__name__}: the file {what} {', '.join(names[:3])}"
                f"{' and others' if len(names) > 3 else ''}. Check the model name and the number of classes."
            )
    model.load_state_dict(state, strict=False)
    bad = [k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise DataFreeError(f"weights from {source} hold NaN or infinity in {bad[0]}; the checkpoint is damaged.")
    return model


def _check_normalisation(settings: dict) -> None:
    given = [settings[name] for name in ("mean", "std") if settings.get(name) is not None]
    if not given:
        return
    numbers = [float(v) for triple in given for v in triple]
    if len(given) != 2 or len(numbers) != 6 or not all(map(math.isfinite, numbers)) or min(numbers[3:]) <= 0:
        raise DataFreeError(
            "mean and std must be given together, each three numbers (red, green, blue), std above zero."
        )


def _from_package(**settings) -> nn.Module:
    path = efficientnet.weights_file()
    check_sha256(path, efficientnet.SHA256)
    return load_state(
        build_network("efficientnet_lite0", **settings), efficientnet.renamed(read_state(path)), f"'{path}'"
    ).eval()


def _embedded(name: str, trained_on: str, suffix: str, missing: str) -> Path:
    folder = "models" if trained_on == "cifar10" else f"models/{trained_on}"
    return files.stub_path(f"{folder}/{name}{suffix}", missing=missing)


def classes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many classes the last linear layer of a state dict tells apart; nothing where there is none."""
    # the last matrix with a bias of as many values is the classifier
    biases = {k.removesuffix("bias") + "weight": len(v) for k, v in state.items() if k.endswith("bias") and v.ndim == 1}
    rows = [len(v) for k, v in sorted(state.items()) if v.ndim == 2 and biases.get(k) == len(v)]
    return {"classes": rows[-1]} if rows else {}


def structure_of(name: str, state: dict[str, torch.Tensor]) -> dict[str, int | bool]:
    """What `build_network(name, ...)` must be told so that these weights fit: classes, and the kind of shortcut."""
    projection = name in CIFAR_RESNETS and any(".shortcut." in key for key in state)
    return classes_of(state) | ({"projection": True} if projection else {})


def torchvision_resnet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a residual network for small images whose layers are called as torchvision calls them."""
    return {key.replace(".downsample.", ".shortcut.").replace("fc.", "linear."): v for key, v in state.items()}


KEYS = {
    "": dict,
    "torchvision_resnet": torchvision_resnet,
    "keras_mobilenet": mobilenet.renamed,
    "pytorch_enet": enet.eleven_classes,
}
"""Name in inputs.yaml -> what makes this library's names of a file's."""


def _registered(name: str, weights: str, sha256: str | None, **settings) -> nn.Module:
    """Weights that inputs.yaml knows; their normalisation comes with them."""
    known = inputs.entry(weights, "weights")
    if known.model != name:
        raise DataFreeError(f"weights '{weights}' are of a '{known.model}', not of a '{name}'; give the other name.")
    for part in ("mean", "std"):
        if settings.get(part) is not None and list(settings[part]) != getattr(known, part):
            raise DataFreeError(
                f"weights '{weights}' come with their normalisation, another than the one given; leave out mean and std."
            )
    path = inputs.find(weights)
    if sha256:
        check_sha256(path, sha256)
    state = KEYS[known.keys](read_state(path, weights))
    settings = structure_of(name, state) | settings | {"mean": known.mean, "std": known.std}
    return load_state(build_network(name, **settings), state, f"'{weights}'").eval()


def load_network(
    name: str, weights: str | Path | None = None, *, sha256: str | None = None, trained_on: str = "cifar10",
    device: str = "cpu", **settings,
) -> nn.Module:  # fmt: skip
    """A trained network in evaluation mode.

    Args:
        name: one of ARCHITECTURES.
        weights: a name that `datafree inputs` lists, or a state dict's path; None takes the embedded weights of data_stubs/models (of efficientnet_lite0:
            those of its package); 'torchvision' those that torchvision fetches (TORCHVISION_MODELS only).
        sha256: expected checksum of `weights`; the embedded files are always checked.
        trained_on: which embedded weights: of CIFAR-10, or of a folder of data_stubs/models.
        device: where the network is put, and so its results: cpu, cuda, mps, or auto.
        settings: `classes` (default: as many as the weights have), and `mean` and `std` of the input normalisation.
    """
    known_network(name)
    _check_normalisation(settings)
    place = device_named(device)
    return _loaded(name, weights, sha256, trained_on, **settings).to(place)


def _loaded(name: str, weights: str | Path | None, sha256: str | None, trained_on: str, **settings) -> nn.Module:
    if str(weights) == "torchvision":
        return _of_torchvision(name, **settings)
    if str(weights) in inputs.registry():
        return _registered(name, str(weights), sha256, **settings)
    if weights is None and name == "efficientnet_lite0":
        return _from_package(**settings)
    if weights is None:
        of = "" if trained_on == "cifar10" else f" of {trained_on}"
        missing = (
            f"model '{name}' has no embedded weights{of}; give weights=NAME (see `datafree inputs`) or weights=PATH"
        )
        path = files.verified(_embedded(name, trained_on, ".safetensors", missing))
    else:
        path = Path(weights)
    if sha256 and path.is_file():
        check_sha256(path, sha256)
    state = read_state(path)
    carried = {"normalize.mean", "normalize.std"} <= set(state)
    if not carried and weights is not None and "mean" not in settings and name not in IMAGENET_MODELS:
        raise DataFreeError(
            f"weights '{path}' carry no input normalisation; give mean=(...) and std=(...) as used when it was trained."
        )
    model = build_network(name, **(structure_of(name, state) | settings))
    # to see whether the file brings another normalisation
    own = {k: v.clone() for k, v in model.normalize.state_dict().items()} if "mean" in settings else {}
    load_state(model, state, f"'{path}'")
    if any(not torch.allclose(v, model.normalize.state_dict()[k]) for k, v in own.items()):
        raise DataFreeError(
            f"weights '{path}' carry their own input normalisation, another than mean and std given; leave these out."
        )
    return model.eval()


def _of_torchvision(name: str, **settings) -> nn.Module:
    if name not in TORCHVISION_MODELS:
        raise DataFreeError(
            f"torchvision has no weights for '{name}'; it has them for {', '.join(TORCHVISION_MODELS)}."
        )
    return load_state(build_network(name, **settings), torchvision_state(name), "torchvision").eval()


def training_record(name: str, trained_on: str = "cifar10") -> dict:
    """What made the embedded weights: command, parameters, seed, commit, log and final accuracy."""
    path = _embedded(name, trained_on, ".json", f"model '{name}' has no training record")
    return json.loads(path.read_text())


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names and bytes of the whole state: equal only if nothing moved."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        )
    return digest.hexdigest()
