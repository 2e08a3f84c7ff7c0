"""The command `datafree inputs`."""

from __future__ import annotations

from typing import Annotated

import typer

from . import inputs as known


def attach(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("inputs")(inputs)


def inputs(name: Annotated[str, typer.Argument(help="of one input; without it all are listed")] = ""):
    """List the data and weights known by name and whether they are in the cache; or tell all about one, after a check."""
    if name:
        typer.echo("\n".join(f"{label}: {value}" for label, value in known.details(name).items()))
        return
    typer.echo(f"cache: {known.cache()} (DATAFREE_CACHE chooses another)")
    for row in known.overview():
        typer.echo("  ".join(row).rstrip())
