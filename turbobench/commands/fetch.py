"""`turbobench fetch`: have the pinned llama.cpp source in the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from turbobench import console
from turbobench.source import fetch, load_pin

SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="DIR|URL", help="Take the llama.cpp source from here and nowhere else."),
]


def command(*, source: SourceOption = None) -> None:
    """Fetch the pinned llama.cpp source, and check it against its tree id."""
    tree = fetch(load_pin(), source=source)
    console.done(f"llama.cpp {tree.commit[:7]}, tree {tree.tree_id}")
    console.out.print(str(tree.path))
