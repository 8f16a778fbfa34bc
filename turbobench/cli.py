"""The typer app, and the one place that turns a TurbobenchError into an exit code."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path
from types import FrameType

import typer

from turbobench import __version__, console
from turbobench.commands import register
from turbobench.errors import AccessError, Interrupted, TurbobenchError
from turbobench.paths import raise_if_disk_full

_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

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
    """End for a full disk or a missing permission; any other OSError is ours, and shows its traceback."""
    where = Path(failure.filename or "the cache")
    try:
        raise_if_disk_full(failure, where)
        if failure.errno in _NO_ACCESS:
            raise AccessError(
                f"{where}: {failure.strerror}", "mend its permissions, or set TURBOBENCH_CACHE to another folder"
            )
    except TurbobenchError as condition:
        console.error(condition.what, condition.hint)
        sys.exit(condition.exit_code)
    raise failure
