"""The commands `compress` and `methods`: one verb for all papers, and what each of them can be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import cli_build, cli_methods
from .config import Strict, scalar, suggestion, validate
from .errors import DataFreeError

Name = Annotated[str, typer.Option("--method", help="knowledge_within, layer_wise, layer_wise_pruning, udfc, frandi, "
                                   "frandi_quantization; `datafree methods NAME` lists what each takes")]  # fmt: skip


def attach(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    for command in (compress, methods):
        app.command()(command)


def configuration(name: str) -> type[Strict]:
    """The configuration of a method; DataFreeError with the names there are."""
    from . import rebuild

    if name not in rebuild.METHODS:
        raise DataFreeError(
            f"method '{name}' is not known{suggestion(name, rebuild.METHODS)}; known: {', '.join(rebuild.METHODS)}."
        )
    return rebuild.METHODS[name].config


def nested(pairs: list[str]) -> dict:
    """NAME=VALUE pairs as a dictionary; a dot leads into a group: recovery.steps=100."""
    values: dict = {}
    for name, text in cli_build.overrides(pairs).items():
        *groups, leaf = name.split(".")
        place = values
        for group in groups:
            place = place.setdefault(group, {}) if isinstance(place, dict) else None
        if not isinstance(place, dict) or isinstance(place.get(leaf), dict):
            raise DataFreeError(f"'{name}' is given both as a value and as a group; give one of them.")
        place[leaf] = scalar(text)
    return values


def compress(
    model: cli_methods.Model,
    out: Annotated[Path, typer.Option(help="the .safetensors file to write; its report goes beside it")],
    method: Name = "knowledge_within",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", help="NAME=VALUE of the method's configuration, for instance recovery.steps=100")
    ] = None,
    weights: cli_methods.Weights = None,
    mean: cli_methods.Mean = "",
    std: cli_methods.Std = "",
):  # fmt: skip
    """Compress a network by one of the papers; defaults are the papers' settings, and may take long."""
    from safetensors.torch import save_file

    import datafree

    from . import files
    from .networks.zoo import image_size

    files.weights_name(out)
    config = validate(configuration(method), nested(parameter or []), "compress")
    side = image_size(model) or 32
    result = datafree.compress(cli_methods.network(model, weights, mean, std), config, shape=(3, side, side))
    state = {k: v.contiguous() for k, v in result.model.state_dict().items()}
    files.write_atomically(out, lambda p: save_file(state, p))
    report = result.report | {"model": model, "shape": [3, side, side]}
    files.write_atomically(out.with_suffix(".json"), lambda p: p.write_text(json.dumps(report, indent=1) + "\n"))
    typer.echo(
        f"{model}: {report['bytes_float']:.0f} -> {report['bytes']:.0f} bytes, {report['macs_float'] / report['macs']:.2f} "
        f"times fewer operations, in {report['seconds']:.0f} s -> {out}"
    )


def _lines(cls: type[Strict], prefix: str = "") -> list[str]:
    lines = []
    for name, field in cls.model_fields.items():
        if isinstance(field.default, Strict):
            lines += _lines(type(field.default), f"{prefix}{name}.")
        else:
            about = f"  ({field.description})" if field.description else ""
            lines.append(f"  {prefix}{name} = {field.default}{about}")
    return lines


def methods(name: Annotated[str, typer.Argument(help="of one method; without it all are named")] = ""):
    """List the methods of `datafree compress`, or what one of them can be told by -p."""
    from . import rebuild

    if name:
        typer.echo("\n".join(_lines(configuration(name))))
        return
    for each, method in rebuild.METHODS.items():
        typer.echo(f"{each}: {method.about}")
