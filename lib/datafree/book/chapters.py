"""A run of a chapter: its parameters, network and images, what it measures, and the record it leaves."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import files
from ..config import Strict, triple, validate
from ..core.metrics import agreeing, count_classes, hits
from ..core.provenance import peak_memory_mb, provenance
from ..data.images import ImageSet, pixels_hash
from ..data.sources import load_images
from ..errors import DataFreeError
from ..evidence import claims
from ..evidence.fingerprint import fingerprint_of, module_hash
from ..evidence.measured import pack
from ..evidence.record import Record, digest, plain, portable
from ..networks.classifiers import TORCHVISION_MODELS
from ..networks.weights import load_network, state_hash
from ..networks.zoo import image_size
from ..papers.frandi.factorization import Factorizer
from ..papers.knowledge_within import synthesis
from . import parameters


def command(notebook: str, config: Strict) -> str:
    """The command line that runs the notebook with these parameters again."""
    given = {name: value for name, value in config.model_dump().items() if name in _given(notebook, config)}
    words = ["datafree", "run", notebook, "--profile", config.profile, "--seed", str(config.seed)]
    if config.device != "auto":
        words += ["--device", config.device]
    for name, value in given.items():
        words += ["-p", f"{name}={portable(value)}"]
    return shlex.join(words)


def _given(notebook: str, config: Strict) -> set[str]:
    asked = {
        name
        for name, value in parameters.load_profile(config.profile).get(notebook, {}).items()
        if value == parameters.ASK
    }
    return asked | set(parameters.overridden(notebook, config))


def default_path(notebook: str, config: Strict) -> Path:
    """_build/records/PROFILE/NOTEBOOK/seedK.json; under _build/runs where the profile's parameters were changed."""
    trial = bool(parameters.overridden(notebook, config))
    folder = files.BUILD / "runs" if trial else files.BUILD / "records" / config.profile
    return folder / notebook / f"seed{config.seed}.json"


def _seed_everything(seed: int) -> None:
    import random

    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


class Chapter:
    """One run of a notebook: its parameters, what it measures, and the record it leaves."""

    def __init__(self, notebook: str, config: Strict):
        self.notebook = notebook
        self.config = config
        self._started = datetime.datetime.now(datetime.UTC)
        self._clock = time.perf_counter()
        self._cpu = time.process_time()
        self._provenance = provenance()
        self._metrics: dict[str, Any] = {}
        self._hits: dict[str, str] = {}
        self._inputs: dict[str, str] = {}

    def metric(self, name: str, value: Any) -> None:
        """Keep a measured value; a later value of the same name takes its place."""
        self._metrics[str(name)] = plain(value, str(name))

    def accuracy(self, path: Sequence[str | int], network: nn.Module, images: ImageSet, *, bf16: bool = False) -> float:
        """Top-1 accuracy in percent, kept in the metrics at `path` together with which images were right.

        Args:
            path: names (and numbers of repetitions) that lead to the value: ("top1", "4w4a", "BNS", 0).
        """
        return self.share(path, hits(network, images, bf16=bf16)[0], images)

    def agreement(self, path: Sequence[str | int], network: nn.Module, reference: nn.Module, images: ImageSet) -> float:
        """Share of images, in percent, on which two networks choose the same class; kept like `accuracy`."""
        return self.share(path, agreeing(network, reference, images), images)

    def share(self, path: Sequence[str | int], right: torch.Tensor, images: ImageSet) -> float:
        """Share in percent of the images that are `right` [N], kept in the metrics at `path` with the images themselves."""
        value = 100 * int(right.sum()) / len(right)
        self._place(list(path), value)
        self._hits["/".join(map(str, path))] = pack(right.tolist())
        self._note_input(images)
        return value

    def _note_input(self, images: ImageSet) -> None:
        """The images' hash under their name and number; parts of one set have other numbers."""
        name = f"{images.name}, {len(images)} images"
        if name not in self._inputs:
            self._inputs[name] = pixels_hash(images)

    def _place(self, path: list[str | int], value: float) -> None:
        """Put a value where the path leads: names are keys of dictionaries, numbers are places of lists."""
        place: Any = self._metrics
        for key, following in zip(path, path[1:]):
            empty: Any = [] if isinstance(following, int) else {}
            if isinstance(place, dict):
                place.setdefault(key, empty)
            elif key == len(place):
                place.append(empty)
            place = place[key]
        if isinstance(place, list) and path[-1] == len(place):
            place.append(value)
        else:
            place[path[-1]] = value

    def record(self) -> dict[str, Any]:
        """The record as it stands now."""
        overrides = parameters.overridden(self.notebook, self.config)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        content = {
            "notebook": self.notebook,
            "profile": self.config.profile,
            "seed": self.config.seed,
            "parameters": {name: portable(value) for name, value in self.config.model_dump().items()},
            "overrides": {name: portable(value) for name, value in overrides.items()},
            "command": command(self.notebook, self.config),
            "provenance": self._provenance | {"written": now},
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 2),
            "cpu_seconds": round(time.process_time() - self._cpu, 2),
            "peak_memory_mb": peak_memory_mb(),
            "inputs": dict(sorted((files.READ | self._inputs).items())),
            "fingerprint": fingerprint_of(self.notebook, self.config),
            "metrics": self._metrics,
            "hits": self._hits,
        }
        return content | {"digest": digest(content)}

    def finish(self) -> None:
        """Write the record, whole or not at all: the last cell of a notebook."""
        record = self.record()
        validate(Record, record, f"the record of {self.notebook}")
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        path = Path(os.environ.get("DATAFREE_RECORD") or default_path(self.notebook, self.config))
        files.write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        print(f"{self.notebook}: record written.")


def begin(notebook: str, namespace: dict[str, Any]) -> Chapter:
    """Start a chapter: check the parameters found in `namespace` (a notebook's globals()), seed, and note the time.

    Raises:
        DataFreeError: an unknown notebook or profile, or a parameter that is missing or does not fit.
    """
    cls = parameters.parameters_of(notebook)
    missing = [name for name in cls.model_fields if name not in namespace]
    if missing:
        raise DataFreeError(f"{notebook}: the parameters cell does not set {', '.join(missing)}; run that cell first.")
    config = validate(cls, {name: namespace[name] for name in cls.model_fields}, notebook)
    parameters.load_profile(config.profile)
    _seed_everything(config.seed)
    chapter = Chapter(notebook, config)
    git, torch = chapter._provenance["git"], chapter._provenance["packages"]["torch"]
    state = git["commit"][:7] + (" with changes" if git["dirty"] else "")
    print(f"{notebook} · profile {config.profile} · seed {config.seed} · commit {state} · torch {torch}")
    return chapter


SOURCES = {"real": "real", "bns": "BNS", "bns_inception": "BNS + I", "inception": "I", "gaussian": "G"}
"""Sources of calibration images in the order of the paper's tables, with the names shown in figures."""


def network(config: Strict) -> nn.Module:
    """The reference network: embedded weights, or the file of `weights` with its normalisation."""
    settings = {name: value for name in ("mean", "std") if (value := triple(getattr(config, name)))}
    return load_network(config.model, config.weights or None, device=config.device, **settings)


def also(config: Strict, model: str, weights: str = "", data: str = "") -> Strict:
    """The same parameters with another network in the first place.

    Args:
        weights: empty: those that are embedded, or torchvision's own. data: empty: as for the first network.
    """
    weights = weights or ("torchvision" if model in TORCHVISION_MODELS else "")
    changes = {"model": model, "weights": weights, "data": data or config.data, "mean": "", "std": ""}
    return config.model_copy(update=changes)


def images(config: Strict, split: str, count: int | None = None) -> ImageSet:
    """The data set of `config`; with `count`, an evenly spread part that keeps the classes' shares."""
    side = image_size(config.model)
    whole = load_images(config.data, split, root=config.root or None, size=side, limit=count, device=config.device)
    if count is None or count >= len(whole):
        return whole
    if count < len(whole.present):
        raise DataFreeError(f"{count} images were asked for, fewer than the {len(whole.present)} classes.")
    return whole.per_class(count // len(whole.present))


def ablation_ranks(model: str, factors: Factorizer, reduction: float) -> dict[str, int]:
    """Ranks of FRanDI's ablations: those of table 8 for its own network, else one share for all layers."""
    if model == "resnet18_cifar":
        return {row["layer"]: row["rank"] for row in claims.table("frandi", "T8")["rows"]}
    return factors.uniform(reduction)


def part(whole: ImageSet, count: int) -> ImageSet:
    """`count` images of a set: of a real one equally many a class, of a generated one every so many-th."""
    if count >= len(whole):
        return whole
    if whole.pixels.dtype == torch.uint8:
        return whole.per_class(max(1, count // len(whole.present)))
    return whole[torch.linspace(0, len(whole) - 1, count, device=whole.pixels.device).long()]


def synthesis_config(config: parameters.KWImages, scheme: str, sigma: float = 1.0) -> synthesis.SynthesisConfig:
    """How the images are made that the chapters on calibration and distillation share."""
    return synthesis.SynthesisConfig(
        scheme=scheme, batch=config.synthesis_batch, steps=config.synthesis_steps, copies=config.copies,
        rate=config.rate, sigma=sigma, precision=config.precision, seed=config.seed,
    )  # fmt: skip


def images_path(model: nn.Module, config: parameters.KWImages, scheme: str, sigma: float = 1.0) -> Path:
    """Where the images of a scheme are kept between runs, for whichever chapter makes them first.

    The name carries a hash of all that decides what they look like: the network, the settings and the code. So what was
    made otherwise has another name, and nothing is overwritten. Their number is no part of it: a short set is completed.
    """
    made_of = [state_hash(model), image_size(config.model), synthesis_config(config, scheme, sigma).model_dump()]
    text = json.dumps([*made_of, module_hash(synthesis.__name__)], sort_keys=True)
    return files.BUILD / "images" / f"{scheme}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


def calibration_images(
    model: nn.Module, config: parameters.KWImages, source: str, sigma: float = 1.0, count: int | None = None
) -> ImageSet:
    """`count` (default: config.images) images of one source: real training images, or made (or read back) by a scheme."""
    count = count or config.images
    if source == "real":
        return images(config, "train", count)
    if source not in synthesis.SCHEMES:
        raise DataFreeError(f"image source '{source}' is not known; choose one of {', '.join(SOURCES)}.")
    path = images_path(model, config, source, sigma)
    side = image_size(config.model) or 32
    classes = count_classes(model, (3, side, side))
    return synthesis.image_set(model, synthesis_config(config, source, sigma), count, path, side, classes)
