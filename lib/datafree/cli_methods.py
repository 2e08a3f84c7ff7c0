"""The commands that make images and evaluate a network; `attach` adds them to the application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .errors import DataFreeError

Model = Annotated[str, typer.Argument(help="name of the network, for instance resnet20")]
Weights = Annotated[
    Path | None, typer.Option(help="a name of `datafree inputs`, or a state dict; default: the embedded weights")
]
Mean = Annotated[str, typer.Option(help="three numbers: the input normalisation of --weights")]
Std = Annotated[str, typer.Option(help="three numbers: the input normalisation of --weights")]
Data = Annotated[
    str, typer.Option(help="cifar10-stub, a name of `datafree inputs`, one of torchvision's sets, or folder:PATH")
]
Root = Annotated[Path | None, typer.Option(help="where torchvision's data sets lie")]


def attach(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    for command in (synthesize, evaluate):
        app.command()(command)


def network(model: str, weights: Path | None, mean: str, std: str):
    from .networks.weights import load_network

    return load_network(model, weights, **normalisation(mean, std))


def normalisation(mean: str, std: str) -> dict[str, tuple[float, ...]]:
    """The settings `mean` and `std` as the numbers they stand for, without those that were not given."""
    return {name: value for name, text in (("mean", mean), ("std", std)) if (value := _numbers(name, text))}


def _numbers(name: str, text: str) -> tuple[float, ...] | None:
    from .config import triple
    from .errors import DataFreeError

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
    from . import cli_build
    from .book import chapters, parameters

    config = parameters.resolve("02_kw_calibration", profile, cli_build.overrides(parameter or []), seed)
    made = chapters.pool(chapters.network(config), config, scheme)
    typer.echo(f"{len(made)} images of scheme {made.name} -> {chapters.pool_path(config, scheme).name}")


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
    """Top-1 and top-5 accuracy of a network, float or compressed, on real test images; mean IoU where pixels have labels."""
    from . import rebuild
    from .core.metrics import mean_iou, outputs, top1, top5
    from .data.sources import load_images
    from .networks.zoo import image_size

    net = rebuild.compressed(model, weights, report) if report else network(model, weights, mean, std)
    test = load_images(data, "test", root=root, size=image_size(model))
    classes = outputs(net, test[:1]).shape[1]
    if classes != len(test.classes):
        raise DataFreeError(
            f"'{test.name}' has {len(test.classes)} classes, {model} {classes}; give --data with images of its classes."
        )
    if test.labels.ndim == 3:
        found = f"mean IoU {mean_iou(net, test):.2f} %"
    else:
        found = f"top-1 {top1(net, test):.2f} %, top-5 {top5(net, test):.2f} %"
    typer.echo(f"{model}: {found} on {len(test)} images")
