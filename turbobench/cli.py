"""The typer app, and the one place that turns a TurbobenchError into an exit code."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from turbobench import __version__, console
from turbobench.errors import Interrupted, TurbobenchError
from turbobench.paths import raise_if_disk_full

app = typer.Typer(
    name="turbobench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measure turbo3/turbo4 KV-cache quantization in llama.cpp: speed by context depth, memory, quality.",
)


@app.callback(invoke_without_command=True)
def _root(*, version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        console.out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the tool; a user's mistake ends in one line and an exit code, never in a traceback."""
    from turbobench.commands import register  # late: `--help` stays quick

    register(app)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except TurbobenchError as failure:
        console.error(failure.what, failure.hint)
        sys.exit(failure.exit_code)
    except KeyboardInterrupt:
        console.error("interrupted", "what was finished is kept; run the same command again to go on")
        sys.exit(Interrupted.exit_code)
    except OSError as failure:
        _exit_for_os_error(failure)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _exit_for_os_error(failure: OSError) -> None:
    """A full disk is a user's condition; any other OSError that got this far is ours, and shows its traceback."""
    from pathlib import Path

    try:
        raise_if_disk_full(failure, Path(failure.filename or "the cache"))
    except TurbobenchError as full:
        console.error(full.what, full.hint)
        sys.exit(full.exit_code)
    raise failure
