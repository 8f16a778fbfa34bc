"""One module per verb; each exports `command`, and this table is the whole command line."""

from __future__ import annotations

import importlib

import typer

# In the order of the data flow, which is the order --help shows.
_VERBS = ("doctor", "fetch", "apply", "build", "run", "report", "demo")


def register(app: typer.Typer) -> None:
    """Add every verb to the app."""
    for verb in _VERBS:
        app.command(name=verb)(importlib.import_module(f"turbobench.commands.{verb}").command)
