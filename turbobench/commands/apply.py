"""`turbobench apply`: put the patch stack and the kernels on the pinned source, check that they fit, or export them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turbobench import console, stack
from turbobench.commands.fetch import SourceOption
from turbobench.errors import ConfigError
from turbobench.export import export
from turbobench.source import fetch, load_pin

DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir", file_okay=False, metavar="DIR", help="The patched tree to work in, instead of the cached one."
    ),
]


def command(
    *,
    check: Annotated[bool, typer.Option("--check", help="Only say whether the stack applies.")] = False,
    export_: Annotated[bool, typer.Option("--export", help="Write the tree's commits back to patches/.")] = False,
    directory: DirOption = None,
    source: SourceOption = None,
) -> None:
    """Apply patches/series and ggml_kernels/ to the pinned llama.cpp source."""
    if check and export_:
        raise typer.BadParameter("--check and --export exclude each other")
    if export_ and directory is not None and not directory.is_dir():
        raise ConfigError(
            f"there is no {directory} to export", "make a tree with 'turbobench apply --dir DIR', and edit it"
        )
    tree = fetch(load_pin(), source=source)
    if check:
        tree_id = stack.check(tree)
        console.done(f"the stack applies to llama.cpp {tree.commit[:7]}: tree {tree_id}")
        return
    if export_:
        _export(directory or stack.apply(tree).path)
        return
    patched = stack.apply(tree, into=directory)
    console.done(f"{len(stack.load_stack().patches)} patches applied, tree {patched.tree_id}")
    console.out.print(str(patched.path))


def _export(directory: Path) -> None:
    changed = export(directory)
    for path in changed:
        console.out.print(str(path))
    console.done(f"{len(changed)} files changed" if changed else "patches and kernels are as in the tree")
