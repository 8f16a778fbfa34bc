"""What the user sees: steps, warnings and progress on stderr; stdout carries results only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

err = Console(stderr=True, highlight=False, soft_wrap=True)
# A result piped into a file is not wrapped at 80 columns.
out = Console(highlight=False, soft_wrap=True) if not os.isatty(1) else Console(highlight=False)


def step(text: str) -> None:
    """Announce a stage of the pipeline."""
    err.print(f"[bold]•[/bold] {escape(text)}")


def done(text: str) -> None:
    err.print(f"[green]✓[/green] {escape(text)}")


def warn(text: str) -> None:
    err.print(f"[yellow]warning:[/yellow] {escape(text)}")


def error(what: str, hint: str) -> None:
    err.print(f"[red]error:[/red] {escape(what)}")
    if hint:
        err.print(f"  [bold]→[/bold] {escape(hint)}")


def echo_command(text: str) -> None:
    """Show a command the way a shell would take it."""
    err.print(f"[dim]+ {escape(text)}[/dim]")


@contextmanager
def progress(*, download: bool = False, extra: ProgressColumn | None = None) -> Iterator[Progress]:
    """Yield a rich progress display on stderr; with `download`, amounts are bytes, otherwise a count."""
    amount: ProgressColumn = DownloadColumn() if download else MofNCompleteColumn()
    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        amount,
        TimeElapsedColumn(),
    ]
    if extra is not None:
        columns.append(extra)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as display:
        yield display
