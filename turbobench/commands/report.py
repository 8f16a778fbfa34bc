"""`turbobench report`: the tables of a result set, in the terminal, as Markdown or as CSV."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer

from turbobench import console, report
from turbobench.commands.run import result_folder


class Format(StrEnum):
    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    CSV = "csv"


def command(
    *,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[SET]", help="A folder with records.jsonl, or its name in results/.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="What to print on stdout.")] = Format.TERMINAL,
) -> None:
    """Write report.md and tidy.csv of a result set, and print its tables."""
    chosen = _locate(folder)
    made = report.load(chosen)
    path = report.write(made, chosen)
    match format_:
        case Format.TERMINAL:
            report.show(made, console.out)
        case Format.MARKDOWN:
            typer.echo(report.markdown(made), nl=False)
        case Format.CSV:
            typer.echo(report.csv(made), nl=False)
        case _:
            assert_never(format_)
    console.done(f"report: {path}")
    made.check()


def _locate(folder: Path | None) -> Path:
    if folder is None:
        return result_folder("demo", "demo")
    if folder.is_dir() or folder.parent != Path():
        return folder
    return result_folder(folder.name, folder.name)
