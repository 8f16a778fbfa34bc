"""`turbobench build`: compile the patched tree for a backend, and prove that it runs."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from turbobench import backends, console
from turbobench.build import DEFAULT_TARGETS, MORE_TARGETS, build
from turbobench.commands.apply import DirOption
from turbobench.commands.fetch import SourceOption
from turbobench.errors import ConfigError
from turbobench.kvtypes import KV_TYPES
from turbobench.smoke import smoke
from turbobench.source import fetch, load_pin
from turbobench.stack import apply

_GROUPS = ",".join(MORE_TARGETS)


def command(
    *,
    backend: Annotated[str, typer.Option(help="Backend to build for.")] = "cpu",
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Compile jobs at once.")] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="ARCH,…", help="Compile device code for these, not for the GPUs found."),
    ] = None,
    with_: Annotated[str, typer.Option("--with", metavar=_GROUPS, help="Build these too, or 'all'.")] = "",
    directory: DirOption = None,
    source: SourceOption = None,
) -> None:
    """Build the patched llama.cpp, and smoke-test it with every cache type."""
    module = backends.get(backend)  # a misspelt name is told before anything is downloaded
    archs = tuple(dict.fromkeys(module.arch(name.strip()) for text in arch or () for name in text.split(",")))
    targets = _targets(with_)
    tree = apply(fetch(load_pin(), source=source), into=directory)
    tested = functools.partial(smoke, backend=backend)
    made = build(tree, backend, smoke=tested, jobs=jobs, targets=targets, archs=archs)
    devices = f" for {', '.join(made.archs)}" if made.archs else ""
    console.done(f"{backend} build {made.id}{devices} of tree {made.tree_id[:12]}, {made.compiler}")
    for lacking in (kind for kind in KV_TYPES.values() if not kind.runs_on(backend)):
        console.warn(
            f"{backend} has no kernels for {lacking.name}: "
            f"llama.cpp refuses such a cache there; it is on: {lacking.places}"
        )
    if made.untested:
        console.warn(f"the smoke test was not run: {made.untested}; a build on a machine with the device runs it")
    console.out.print(str(made.bin_dir))


def _targets(groups: str) -> tuple[str, ...]:
    names = list(MORE_TARGETS) if groups == "all" else [name for part in groups.split(",") if (name := part.strip())]
    for name in names:
        if name not in MORE_TARGETS:
            raise ConfigError(f"unknown group {name!r} for --with", f"known groups: {_GROUPS}, all")
    return (*DEFAULT_TARGETS, *(target for name in names for target in MORE_TARGETS[name]))
