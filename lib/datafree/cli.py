"""The command line: each command mirrors one call of the library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import cli_build, cli_compress, cli_inputs, cli_ledger, cli_methods
from .config import validate
from .errors import DataFreeError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def datafree():
    """Compress trained CNNs without their training data."""


@app.command()
def train(
    model: str,
    out: Annotated[Path, typer.Option(help="the .safetensors file to write; its record goes beside it")],
    data: Annotated[
        str, typer.Option(help="cifar10-stub, a name of `datafree inputs`, one of torchvision's sets, or folder:PATH")
    ] = "cifar10",
    root: Annotated[str | None, typer.Option(help="where torchvision's data sets lie")] = None,
    mean: Annotated[str, typer.Option(help="three numbers: the input normalisation; default: CIFAR-10's")] = "",
    std: Annotated[str, typer.Option(help="three numbers: the input normalisation; default: CIFAR-10's")] = "",
    epochs: int = 30,
    batch: int = 128,
    rate: float = 0.2,
    decay: float = 5e-4,
    warmup: float = 0.15,
    seed: int = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's own choice")] = None,
):
    """Train a network and write its weights and record; an interrupted run goes on where it stopped."""
    import torch

    from . import training

    if threads:
        torch.set_num_threads(threads)
    config = validate(
        training.TrainConfig,
        dict(
            model=model,
            data=data,
            root=root,
            epochs=epochs,
            batch=batch,
            rate=rate,
            decay=decay,
            warmup=warmup,
            seed=seed,
        )
        | cli_methods.normalisation(mean, std),
        "train",
    )
    record = training.train(config, out)
    score = f"{record['test_miou']:.2f} % mean IoU" if "test_miou" in record else f"{record['test_top1']:.2f} % top-1"
    typer.echo(f"{model}: {score} on {record['test_images']} test images -> {out}")


for part in (cli_methods, cli_compress, cli_build, cli_inputs, cli_ledger):
    part.attach(app)


def main() -> None:
    try:
        app()
    except DataFreeError as error:
        typer.echo(f"datafree: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("datafree: interrupted; run the same command again to go on.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
