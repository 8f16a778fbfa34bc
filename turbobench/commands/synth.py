"""`turbobench synth`: a model of random weights in a published shape, to measure throughput with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from turbobench import console
from turbobench.errors import AccessError, ConfigError
from turbobench.hashing import cached_sha256
from turbobench.model import RANDOM_WEIGHTS
from turbobench.strict_yaml import suggestion
from turbobench.synth import SHAPES, WEIGHT_TYPES, WeightType, find_shape, write_model


def command(
    *,
    shape: Annotated[str, typer.Option(metavar="|".join(SHAPES), help="Whose shape it has.")],
    out: Annotated[Path, typer.Option("--out", dir_okay=False, metavar="FILE", help="The .gguf file to write.")],
    wtype: Annotated[str, typer.Option(metavar="|".join(WEIGHT_TYPES), help="Type of the weights.")] = "q4_0",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same file.")] = 0,
) -> None:
    """Write a model of random weights in a published shape: for throughput only, and labelled so in every table."""
    wanted, kind = find_shape(shape), _weight_type(wtype)
    if not out.absolute().parent.is_dir():
        raise AccessError(f"there is no folder {out.absolute().parent}", "make it, or give another --out")
    started = time.monotonic()
    write_model(shape, wanted, out, wtype=kind, seed=seed)
    took_s = time.monotonic() - started
    console.done(f"{out.name}: {out.stat().st_size / 1e9:.2f} GB in {took_s:.0f} s, {RANDOM_WEIGHTS}; {wanted.source}")
    console.out.print(f"sha256 {cached_sha256(out)}")


def _weight_type(name: str) -> WeightType:
    for known in WEIGHT_TYPES:
        if name == known:
            return known
    raise ConfigError(
        f"unknown weight type {name!r}{suggestion(name, WEIGHT_TYPES)}", f"known: {', '.join(WEIGHT_TYPES)}"
    )
