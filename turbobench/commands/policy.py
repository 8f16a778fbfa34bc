"""`turbobench policy`: measure what each layer's K and V cost, and write the file that `--kv-types` takes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from turbobench import console
from turbobench.commands.fetch import SourceOption
from turbobench.commands.run import BackendOption, ModelOption, OutOption, show_plan
from turbobench.config import QualitySpec
from turbobench.corpora import second_half
from turbobench.errors import ConfigError
from turbobench.model import layer_types_for, preflight, read_facts
from turbobench.models import resolve_model
from turbobench.policy import Checked, find
from turbobench.prepare import Request, prepare, preview
from turbobench.sensitivity import Plan, check_types, sweep
from turbobench.sweep import Prepared

_TYPES = "turbo3,turbo4,q8_0"
_BITS = (3.5, 3.75, 4.0)


def command(
    *,
    model: ModelOption = None,
    bits: Annotated[
        list[float] | None, typer.Option("--bits", min=1, max=16, help="Bits per value, at most; may be repeated.")
    ] = None,
    types: Annotated[str, typer.Option(metavar="TYPE,…", help="The types to choose from.")] = _TYPES,
    every_type: Annotated[
        bool, typer.Option("--every-type", help="Measure each type in each layer, not the first alone.")
    ] = False,
    center: Annotated[bool, typer.Option(help="Subtract the mean of K, which 'calibrate' wrote.")] = True,
    kv_center: Annotated[str | None, typer.Option("--kv-center", metavar="FILE", help="The file of means.")] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="FILE|NAME", help="Its second half is measured on.")
    ] = None,
    n_ctx: Annotated[int, typer.Option("--n-ctx", min=256, help="Tokens of a window.")] = 1024,
    chunks: Annotated[int, typer.Option(min=1, help="Windows.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; one a core if not given.")] = None,
    out: OutOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the jobs and the time they need.")] = False,
    backend: BackendOption = "cpu",
    source: SourceOption = None,
) -> None:
    """Measure what each layer's K and V cost, choose their types within a budget, and write files for --kv-types."""
    facts = read_facts(resolve_model(model))
    name = re.sub(r"[^A-Za-z0-9._-]", "-", facts.path.stem).strip(".-_").lower()
    chosen = check_types([part.strip() for part in types.split(",")])
    plan = Plan(
        f16=layer_types_for(facts, name, "f16", "f16"),
        types=chosen,
        probes=chosen if every_type else chosen[:1],
        center=center,
    )
    for pair in plan.uniform:
        if reason := preflight(facts, pair):
            raise ConfigError(f"{pair} cannot serve {facts.path.name}: {reason}", "leave that type out of --types")
    window = QualitySpec(n_ctx=(n_ctx,), chunks=chunks, corpus=text, floor=False, threads=threads)
    request = Request(
        spec=sweep(plan, f"policy-{name}", window=window),
        model=model,
        backend=backend,
        source=source,
        kv_center=kv_center,
    )
    folder = out or Path.cwd() / "results" / request.spec.name
    if dry_run:
        show_plan(_on_second_half(preview(request)), folder, None)
        return
    _show(find(plan, _on_second_half(prepare(request)), folder, bits or _BITS))


def _on_second_half(prepared: Prepared) -> Prepared:
    """Return the sweep on the part of the text that others, which read from its start, do not see."""
    return replace(prepared, corpus=second_half(prepared.corpus) if prepared.corpus else None)


def _show(checked: list[Checked]) -> None:
    """Print what the sum over layers predicts of each pair, and what was measured on the same text."""
    console.out.print("bits per value, KLD that the sum over layers predicts, KLD measured, pair")
    for one in checked:
        line = f"{one.pair.bpv:6.3f}  {one.predicted:.5f}  {one.measured:.5f}  {one.pair.short}"
        console.out.print(line, markup=False)
    for one in checked:
        if one.path is not None:
            console.done(f"{one.pair.bpv:.3f} bits per value: {one.path}")
