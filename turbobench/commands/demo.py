"""`turbobench demo`: from a bare checkout to a depth table and a quality table, with the defaults."""

from __future__ import annotations

from turbobench import console
from turbobench.commands.fetch import SourceOption
from turbobench.commands.run import BackendOption, ModelOption, OutOption, finish, result_folder
from turbobench.config import load_sweep
from turbobench.prepare import Request, prepare
from turbobench.sweep import run_sweep

_SWEEP = "demo"


def command(
    *, model: ModelOption = None, backend: BackendOption = "cpu", out: OutOption = None, source: SourceOption = None
) -> None:
    """Fetch, patch, build, measure and report with the defaults; a second run finds all of it cached."""
    console.step("turbobench demo: every stage is cached, so it can be interrupted and started again")
    request = Request(spec=load_sweep(_SWEEP), model=model, backend=backend, source=source)
    prepared = prepare(request)
    finish(run_sweep(prepared, out or result_folder(_SWEEP, request.spec.name)))
