"""The command `datafree ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def attach(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("ledger")(ledger)


def ledger(
    check: Annotated[
        bool, typer.Option("--check", help="only look for unreadable records and unknown claims; exit 1")
    ] = False,
    pages: Annotated[Optional[Path], typer.Option(help="also write the book's pages to this folder")] = None,  # noqa: UP045
):
    """Join all records with the papers' claims: _build/ledger.json and _build/ledger.csv."""
    from .book.pages import write_pages
    from .evidence import ledger
    from .evidence.ledger import additions, build, counts, write

    if check:
        _check(ledger)
        return
    rows = build()
    write(rows, additions())
    if pages:
        write_pages(pages)
    for paper, by_state in counts(rows).items():
        typer.echo(f"{paper}: " + ", ".join(f"{number} {state}" for state, number in by_state.items() if number))


def _check(book) -> None:
    from .evidence import claims

    said = book.problems()
    for sentence in said:
        typer.echo(sentence, err=True)
    if said:
        raise typer.Exit(1)
    typer.echo(f"every record can be read, and every claim in them is one of the {len(claims.claims())}.")
