"""`turbobench calibrate`: measure a model's mean keys, and write the file that `--kv-center` takes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from turbobench import backends, console
from turbobench.build import DEFAULT_TARGETS, MORE_TARGETS, build
from turbobench.calibrate import calibrate, plan
from turbobench.commands.fetch import SourceOption
from turbobench.commands.run import BackendOption, ModelOption
from turbobench.corpora import resolve_corpus, second_half
from turbobench.model import read_facts
from turbobench.models import resolve_model
from turbobench.smoke import smoke
from turbobench.source import fetch, load_pin
from turbobench.stack import apply


def command(
    *,
    model: ModelOption = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="FILE|NAME", help="A text file, or a name of corpora.yaml.")
    ] = None,
    n_ctx: Annotated[
        int | None,
        typer.Option("--n-ctx", min=256, help="Positions to cover: the longest context it is to be used in."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", dir_okay=False, metavar="FILE", help="The file to write, not beside MODEL.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    backend: BackendOption = "cpu",
    source: SourceOption = None,
) -> None:
    """Measure the mean of K per layer and head, and write the file for --kv-center of the patched llama.cpp.

    It reads the text's second half: quality sweeps read a text from its start.
    """
    backends.get(backend)  # a misspelt name is told before anything is downloaded
    half = second_half(resolve_corpus(text))
    wanted = plan(read_facts(resolve_model(model)), half, n_ctx=n_ctx, out=out, force=force)
    tree = apply(fetch(load_pin(), source=source))
    targets = (*DEFAULT_TARGETS, *MORE_TARGETS["calibrate"])
    made = build(tree, backend, smoke=functools.partial(smoke, backend=backend), targets=targets)
    console.step(f"calibrating {wanted.model.path.name} on {wanted.text.name}, {wanted.chunks} x {wanted.n_ctx} tokens")
    written = calibrate(wanted, made)
    console.done(f"use it with --kv-center; it serves every quantized K type, in contexts up to {wanted.n_ctx}")
    console.out.print(str(written))
