"""The commands that run notebooks, build the book and examine the checkout; `attach` adds them to the application."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .errors import DataFreeError

Profile = Annotated[str, typer.Option(help="smoke, book or paper")]


def attach(app: typer.Typer) -> None:
    """Add run, build, stage, render, publish and doctor to `app`."""
    app.command()(run)
    app.command()(build)
    app.command()(doctor)
    for step in (stage, render, publish, shorten):
        app.command(hidden=True)(step)


def run(
    notebook: Annotated[str, typer.Argument(help="a notebook of notebooks/, with or without .ipynb")],
    profile: Profile = "book",
    seed: int = 0,
    parameter: Annotated[list[str] | None, typer.Option("-p", help="NAME=VALUE, in place of the profile's")] = None,
    out: Annotated[Path | None, typer.Option(help="the executed notebook")] = None,
    record: Annotated[Path | None, typer.Option(help="the record")] = None,
    timeout: Annotated[int | None, typer.Option(help="seconds a cell may take", min=1)] = None,
    bar: Annotated[bool, typer.Option(help="show a progress bar")] = True,
):
    """Execute one notebook with checked parameters; write it and its record, or nothing."""
    from .book.run import run_notebook

    with interruptible():
        paths = run_notebook(notebook, profile, seed, overrides(parameter or []), out, record, timeout, bar)
    typer.echo("\n".join(str(path) for path in paths))


def overrides(pairs: list[str]) -> dict[str, str]:
    """Split NAME=VALUE; DataFreeError for anything else and for a name given twice."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DataFreeError(f"'-p {pair}' was not understood; write '-p NAME=VALUE', for instance '-p steps=100'.")
        if name in values:
            raise DataFreeError(f"the parameter '{name}' was given twice; give it once.")
        values[name] = value
    return values


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and `kill` alike: clean up, say how to go on, exit with 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("datafree: interrupted; run the same command again to go on.", err=True)
        raise typer.Exit(130) from None


def build(
    goal: Annotated[str, typer.Argument(help="book, notebooks, images or audit")] = "book",
    profile: Profile = "book",
    cores: Annotated[int | None, typer.Option(help="processor cores to use; default 2", min=1)] = None,
):
    """Bring the book (or a part of it) up to date: only what changed is made again."""
    from .book import build as build_module
    from .book.build import HTML

    with interruptible():
        build_module.build(goal, profile, cores)
    if goal == "book":
        typer.echo(f"The book is ready: {HTML / 'index.html'}")


def shorten(
    folder: Annotated[Path, typer.Argument(help="where the copies go")],
    profile: Annotated[str, typer.Option(help="whose parameters they get")] = "smoke",
):
    """Copy every notebook with the parameters of a short profile, for nbval."""
    from .book.run import short_copies

    typer.echo(f"{len(short_copies(folder, profile))} notebooks -> {folder}")


def stage(notebooks: list[str], profile: Profile = "book"):
    """Put together the sources of the book in _build/src."""
    from .book import build as build_module

    build_module.stage(profile, notebooks)


def render(profile: Profile = "book"):
    """Render _build/src to _build/html."""
    from .book import build as build_module

    build_module.render(profile)


def publish(notebooks: list[str], profile: Profile = "book", seeds: Annotated[int, typer.Option(min=1)] = 5):
    """Copy the fresh records of seeds 0, 1, ... to book/records."""
    from .book.build import publish_records

    count = publish_records(profile, notebooks, list(range(seeds)))
    typer.echo(f"{count} records are in book/records")


def doctor(seal: Annotated[bool, typer.Option(help="write data_stubs/SHA256SUMS anew")] = False):
    """Examine the checkout: Python, packages, embedded files, disk, left-overs; exit 1 if something is broken."""
    if seal:
        from . import files
        from .book.doctor import check_up

        typer.echo(f"wrote {files.seal()}")
        return

    if not check_up():
        raise typer.Exit(1)
