"""The commands that make images, compress a network and evaluate it; `attach` adds them to the application."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .errors import DataFreeError
from .params import build

Model = Annotated[str, typer.Argument(help="name of the network, for instance resnet20")]
Weights = Annotated[Path | None, typer.Option(help="state dict; default: the embedded weights")]
Mean = Annotated[str, typer.Option(help="three numbers: the input normalisation of --weights")]
Std = Annotated[str, typer.Option(help="three numbers: the input normalisation of --weights")]
Data = Annotated[str, typer.Option(help="cifar10-stub, a torchvision data set, or folder:PATH")]
Root = Annotated[Path | None, typer.Option(help="where torchvision's data sets lie")]


def attach(app: typer.Typer) -> None:
    """Add synthesize, compress and evaluate to `app`."""
    for command in (synthesize, compress, evaluate):
        app.command()(command)


def _network(model: str, weights: Path | None, mean: str, std: str):
    from . import models

    return models.load(model, weights, **normalisation(mean, std))


def normalisation(mean: str, std: str) -> dict[str, tuple[float, ...]]:
    """The settings `mean` and `std` as the numbers they stand for, without those that were not given."""
    return {name: value for name, text in (("mean", mean), ("std", std)) if (value := _numbers(name, text))}


def _numbers(name: str, text: str) -> tuple[float, ...] | None:
    from .errors import DataFreeError
    from .params import triple

    try:
        return triple(text)
    except ValueError:
        raise DataFreeError(
            f"--{name} got '{text}'; give three numbers, for instance --{name} '0.49 0.48 0.45'."
        ) from None


def synthesize(
    scheme: Annotated[str, typer.Option(help="gaussian, inception, bns or bns_inception")] = "bns",
    profile: Annotated[str, typer.Option(help="make the images of this profile's chapters")] = "book",
    seed: int = 0,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE, in place of the profile's")] = None,
):
    """Make the images that chapter 02_kw_calibration reads; a set that was interrupted is completed."""
    from . import chapters, params
    from .cli_build import overrides

    config = params.resolve("02_kw_calibration", profile, overrides(parameter or []), seed)
    made = chapters.pool(chapters.network(config), config, scheme)
    typer.echo(f"{len(made)} images of scheme {made.name} -> {chapters.pool_path(config, scheme).name}")


def compress(
    model: Model,
    out: Annotated[Path, typer.Option(help="the .safetensors file to write; its report goes beside it")],
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    weight_bits: int = 4,
    act_bits: int = 4,
    edge_bits: Annotated[int | None, typer.Option(help="first and last layer; default: as the others")] = None,
    scheme: Annotated[str, typer.Option(help="gaussian, inception, bns or bns_inception")] = "bns",
    images: int = 500,
    synthesis_steps: int = 60,
    copies: int = 1,
    steps: int = 200,
    batch: int = 256,
    distill_steps: Annotated[int, typer.Option(help="steps of distillation after calibration; 0: none")] = 0,
    distill_batch: int = 64,
    seed: int = 0,
):
    """Quantise a network with The Knowledge Within: images from its statistics, calibration, distillation if asked for."""
    from safetensors.torch import save_file

    import datafree

    from .paths import weights_name, write_atomically

    weights_name(out)
    values = dict(
        weight_bits=weight_bits, act_bits=act_bits, edge_bits=edge_bits, scheme=scheme, images=images,
        synthesis_steps=synthesis_steps, copies=copies, steps=steps, batch=batch, seed=seed,
    )  # fmt: skip
    if distill_steps:
        from .distill import DistillConfig

        schedule = dict(steps=distill_steps, batch=distill_batch, seed=seed)
        values["distillation"] = build(DistillConfig, schedule, "compress")
    config = build(datafree.KnowledgeWithin, values, "compress")
    result = datafree.compress(_network(model, weights, mean, std), config)
    state = {k: v.contiguous() for k, v in result.model.state_dict().items()}
    write_atomically(out, lambda p: save_file(state, p))
    report = result.report | {"model": model}
    write_atomically(out.with_suffix(".json"), lambda p: p.write_text(json.dumps(report, indent=1) + "\n"))
    typer.echo(
        f"{model}: {report['bytes_float']:.0f} -> {report['bytes']:.0f} bytes in {report['seconds']:.0f} s -> {out}"
    )


def evaluate(
    model: Model,
    weights: Weights = None,
    mean: Mean = "",
    std: Std = "",
    report: Annotated[
        Path | None, typer.Option(help="the .json of `datafree compress`, where --weights is its output")
    ] = None,
    data: Data = "cifar10-stub",
    root: Root = None,
):
    """Top-1 and top-5 accuracy of a network, float or compressed, on real test images."""
    from . import data as images
    from . import evaluate as measure
    from .models import image_size

    network = _compressed(model, weights, report) if report else _network(model, weights, mean, std)
    test = images.load(data, "test", root=root, size=image_size(model))
    classes = measure.outputs(network, test[:1]).shape[1]
    if classes != len(test.classes):
        raise DataFreeError(
            f"'{test.name}' has {len(test.classes)} classes, {model} {classes}; give --data with images of its classes."
        )
    typer.echo(
        f"{model}: top-1 {measure.top1(network, test):.2f} %, top-5 {measure.top5(network, test):.2f} % on {len(test)} images"
    )


def _compressed(model: str, weights: Path | None, report: Path):
    """The quantised network that `datafree compress` wrote."""
    import datafree

    from . import models, quantize

    if weights is None or not report.is_file():
        raise datafree.DataFreeError(
            "give --weights OUT.safetensors together with --report OUT.json, as `datafree compress` wrote them."
        )
    try:
        config = dict(json.loads(report.read_text())["config"])
    except (ValueError, KeyError, TypeError):
        raise datafree.DataFreeError(f"'{report}' is not a report of `datafree compress`.") from None
    config = build(datafree.KnowledgeWithin, config, f"'{report}'")
    student = quantize.quantized(
        models.build(model),
        config.weight_bits,
        config.act_bits,
        edge_bits=config.edge_bits,
        per_channel=config.per_channel,
    )
    return models.load_state(student, models.read_state(weights), f"'{weights}'").eval()
