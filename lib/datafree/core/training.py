"""Train a classifier or a segmenter from scratch; this is how the embedded weights were made."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from .. import files
from ..config import Strict, device_named
from ..data.images import random_crop_and_mirror
from ..data.sources import load_images
from ..errors import DataFreeError
from ..networks import own
from ..networks.blocks import CIFAR_MEAN, CIFAR_STD
from ..networks.zoo import SEGMENTERS, build_network, image_size, known_network
from . import preflight
from .flops import count_macs, count_parameters
from .metrics import mean_iou, top1
from .optimization import rate_factor
from .precision import autocast, bf16_pays
from .provenance import provenance

Spread = Annotated[float, Field(gt=0)]


class TrainConfig(Strict):
    """Everything that decides a training run."""

    model: str = Field(description="one of datafree.networks.zoo.ARCHITECTURES, or FILE.py:FUNCTION")
    data: str = Field("cifar10", description="data set name, as in datafree.data.sources.load_images")
    root: str | None = Field(None, description="where torchvision's data sets lie")
    mean: tuple[float, float, float] = Field(CIFAR_MEAN, description="of the input normalisation")
    std: tuple[Spread, Spread, Spread] = Field(CIFAR_STD, description="of the input normalisation")
    epochs: int = Field(30, ge=1, description="passes over the training images")
    batch: int = Field(128, ge=2)
    rate: float = Field(0.2, gt=0, description="peak learning rate of SGD with Nesterov momentum")
    momentum: float = Field(0.9, ge=0, lt=1)
    decay: float = Field(5e-4, ge=0, description="weight decay; not applied to BatchNorm and biases")
    warmup: float = Field(0.15, ge=0, lt=1, description="share of steps with a linearly rising rate")
    zoom: float = Field(
        1.0, ge=1, le=4, description="of pixels' labels: images are enlarged by up to so much, then cropped"
    )
    half: bool = Field(False, description="write weights as float16; the score is then theirs")
    seed: int = Field(0, ge=0)
    bf16: bool = Field(True, description="bf16 autocast where the CPU has it")


def _groups(model: nn.Module, decay: float) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]


def _in_float(forward):
    """The same forward pass with autocast off."""

    def run(x):
        with autocast(False):
            return forward(x.float())

    return run


def strided_depthwise_in_float(model: nn.Module) -> nn.Module:
    """Keep strided depthwise convolutions out of bf16: their bf16 backward pass on CPUs is far slower."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1 and module.stride[0] > 1:
            module.forward = _in_float(module.forward)
    return model


class Trainer:
    """One run: `fit` goes on from `resume` if that file is there, and writes it after every epoch."""

    def __init__(self, config: TrainConfig, out: Path, device: str = "cpu"):
        self.config, self.out = config, files.weights_name(out)
        self.resume = self.out.with_suffix(".resume")
        if not own.is_own(config.model):
            known_network(config.model)
        # a set that has a size of its own keeps it: the network is made for it
        size = image_size(config.model) if config.model in SEGMENTERS else None
        self.train_set, self.test_set = (
            load_images(config.data, split, root=config.root, size=size, device=device) for split in ("train", "test")
        )
        self._check_sets()
        torch.manual_seed(config.seed)
        self.stored = self._built()
        self.model = self._normalized(self.stored)
        strided_depthwise_in_float(self.model).to(device_named(device), memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            _groups(self.model, config.decay), lr=config.rate, momentum=config.momentum, nesterov=True
        )
        steps = config.epochs * (len(self.train_set) // config.batch)
        self.schedule = LambdaLR(self.optimizer, lambda step: rate_factor(step, steps, config.warmup))
        self.generator = torch.Generator().manual_seed(config.seed)
        self.log: list[dict] = []
        self.provenance = provenance()
        self.pixelwise = self.train_set.labels.ndim == 3
        self.score = "test_miou" if self.pixelwise else "test_top1"

    def _built(self) -> nn.Module:
        """The network with fresh weights, as it is stored."""
        config, classes = self.config, len(self.train_set.classes)
        if not own.is_own(config.model):
            return build_network(config.model, classes=classes, mean=config.mean, std=config.std)
        model = own.built(config.model)
        scores = preflight.check_output(model, tuple(self.train_set.pixels.shape[1:]))[1]
        if scores != classes:
            raise DataFreeError(
                f"'{self.train_set.name}' has {classes} classes, '{config.model}' gives {scores} scores."
            )
        return model

    def _normalized(self, model: nn.Module) -> nn.Module:
        """The same network behind the normalisation of its input, where it has none."""
        return model if own.normalizes(model) else own.normalized(model, self.config.mean, self.config.std)

    def _check_sets(self) -> None:
        train_set, test_set = self.train_set, self.test_set
        if train_set.classes != test_set.classes:
            raise DataFreeError(
                f"'{train_set.name}' and '{test_set.name}' differ in their classes; training needs the same in both."
            )
        if len(train_set) < self.config.batch:
            raise DataFreeError(
                f"'{train_set.name}' has {len(train_set)} images, fewer than one batch of {self.config.batch}."
            )
        if train_set.labels.ndim == 1 and (train_set.labels < 0).any():
            raise DataFreeError(f"'{train_set.name}' has images without labels; a classifier cannot be trained on it.")

    def fit(self) -> dict:
        self._load_progress()
        for epoch in range(len(self.log), self.config.epochs):
            self.log.append(self._epoch(epoch))
            tqdm.write(" ".join(f"{k} {v:.4g}" for k, v in self.log[-1].items()))
            self._save_progress()
        return self._finish()

    def _epoch(self, epoch: int) -> dict:
        config, start = self.config, time.perf_counter()
        order = torch.randperm(len(self.train_set), generator=self.generator, device="cpu")
        per_epoch = len(order) // config.batch
        losses, correct = 0.0, 0
        self.model.train()
        for i in tqdm(range(per_epoch), desc=f"epoch {epoch}", leave=False, disable=None):
            rate = self.schedule.get_last_lr()[0]
            loss, hits = self._step(order[i * config.batch : (i + 1) * config.batch])
            losses, correct = losses + loss, correct + hits
        seen = per_epoch * config.batch * self.train_set.labels[0].numel()
        return {
            "epoch": epoch,
            "rate": rate,
            "train_loss": losses / per_epoch,
            "train_pixels" if self.pixelwise else "train_top1": 100 * correct / seen,
            self.score: self._measure(self.config.bf16 and bf16_pays()),
            "seconds": time.perf_counter() - start,
        }

    def _measure(self, bf16: bool) -> float:
        """Of pixels, in the precision of the training: in float it would take as long as an epoch."""
        if self.pixelwise:
            return mean_iou(self.model, self.test_set, batch=2 * self.config.batch, bf16=bf16)
        return top1(self.model, self.test_set)

    def draw(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images and their labels; labels of pixels move with the pixels."""
        drawn = self.train_set[index]
        x, y = drawn.pixels, drawn.labels.long()
        if self.pixelwise:
            both = self._zoomed(torch.cat([x, y[:, None].to(x.dtype)], 1))
            both = random_crop_and_mirror(both, self.generator, size=tuple(x.shape[2:]))
            x, y = both[:, :-1], both[:, -1].to(torch.int8).long()  # the byte 255 is -1, no label
        else:
            x = random_crop_and_mirror(x, self.generator)
        return x.float().div_(255).contiguous(memory_format=torch.channels_last), y

    def _zoomed(self, both: torch.Tensor) -> torch.Tensor:
        """A batch of images, their labels as a fourth channel, enlarged by one random factor."""
        if self.config.zoom == 1:
            return both
        factor = 1 + (self.config.zoom - 1) * torch.rand((), generator=self.generator, device="cpu").item()
        size = tuple(round(factor * side) for side in both.shape[2:])
        x = F.interpolate(both[:, :3].float(), size, mode="bilinear").round()
        y = F.interpolate(both[:, 3:].float(), size, mode="nearest")
        return torch.cat([x, y], 1).to(both.dtype)

    def _step(self, index: torch.Tensor) -> tuple[float, int]:
        x, y = self.draw(index)
        with autocast(self.config.bf16 and bf16_pays(x.device)):
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, ignore_index=-1)
        if not torch.isfinite(loss):
            self._diverged("the loss is NaN or infinite")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return loss.item(), int((logits.argmax(1) == y).sum())

    def _diverged(self, what: str) -> None:
        self.resume.unlink(missing_ok=True)  # it leads here again
        raise DataFreeError(f"training diverged: {what}; use a smaller rate.")

    def _save_progress(self) -> None:
        if not all(torch.isfinite(v).all() for v in self.model.state_dict().values()):
            self._diverged("the weights are NaN or infinite")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "log": self.log,
            "config": self.config.model_dump(),
        }
        files.write_atomically(self.resume, lambda p: torch.save(state, p))

    def _load_progress(self) -> None:
        if not self.resume.is_file():
            return
        try:
            state = torch.load(self.resume, map_location="cpu", weights_only=True)
        except Exception:
            raise DataFreeError(f"progress file '{self.resume}' cannot be read; delete it to start again.") from None
        if state["config"] != self.config.model_dump():
            raise DataFreeError(
                f"'{self.resume}' belongs to a run with other parameters; delete it or use another --out."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        self.log = state["log"]
        tqdm.write(f"going on after epoch {len(self.log) - 1}")

    def _finish(self) -> dict:
        state = {k: v.contiguous() for k, v in self.stored.state_dict().items()}
        score = self.log[-1][self.score]
        if self.config.half:
            state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
            self.stored.load_state_dict(state)
            score = self._measure(bf16=False)
        files.write_atomically(self.out, lambda p: save_file(state, p))
        record = {
            "command": command(self.config, self.out),
            "parameters": self.config.model_dump() | {"data": data_name(self.config), "root": None},
            "provenance": self.provenance,
            "test_images": len(self.test_set),
            self.score: score,
            "model_parameters": count_parameters(self.model),
            "macs": count_macs(self.model, tuple(self.train_set.pixels.shape[1:])),
            "seconds": sum(row["seconds"] for row in self.log),
            "log": self.log,
        }
        files.write_atomically(
            self.out.with_suffix(".json"), lambda p: p.write_text(json.dumps(record, indent=1) + "\n")
        )
        self.resume.unlink(missing_ok=True)
        return record


def data_name(config: TrainConfig) -> str:
    """The data set without a machine's paths: folders are named by their last part."""
    return config.data if not config.data.startswith("folder:") else f"folder:{Path(config.data[7:]).name}"


def command(config: TrainConfig, out: Path) -> str:
    """The command line that repeats a run: what differs from the defaults, without a machine's paths."""
    values = config.model_dump(exclude={"model", "root"}, exclude_defaults=True)
    if "data" in values:
        values["data"] = data_name(config)
    texts = (" ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values.values())
    settings = (part for name, text in zip(values, texts) for part in ("-p", f"{name}={text}"))
    return shlex.join(["datafree", "train", config.model, *settings, "--out", out.name])


def train(config: TrainConfig, out: str | Path, device: str = "cpu") -> dict:
    """Train, write OUT (safetensors) and OUT's .json (command, parameters, log, final accuracy)."""
    return Trainer(config, Path(out), device).fit()
