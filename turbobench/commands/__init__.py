"""One module per verb; each exports `command`, and this table is the whole command line."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import typer

from turbobench.errors import Interrupted

# In the order of the data flow, which is the order --help shows.
_VERBS = ("doctor", "fetch", "apply", "build", "verify", "synth", "calibrate", "policy", "run", "report", "demo")


def register(app: typer.Typer) -> None:
    """Add every verb to the app."""
    for verb in _VERBS:
        app.command(name=verb)(_interruptible(importlib.import_module(f"turbobench.commands.{verb}").command))


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Give Ctrl-C its exit code here: what typer makes of a KeyboardInterrupt differs between its versions."""

    @functools.wraps(command)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("interrupted", "what was finished is kept; run the same command again to go on") from None

    return wrapped
