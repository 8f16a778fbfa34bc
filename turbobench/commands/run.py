"""`turbobench run`: measure what a sweep still lacks, and report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from turbobench import console
from turbobench.commands.fetch import SourceOption
from turbobench.config import load_sweep
from turbobench.errors import SweepIncompleteError
from turbobench.paths import configs_dir, project_dir
from turbobench.prepare import Request, prepare, preview
from turbobench.store import RECORDS, read
from turbobench.sweep import Prepared, SweepEnd, check_only, eta_model, jobs_of, pending, run_sweep
from turbobench.sweep_view import duration, label, works_of

ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", metavar="FILE|NAME", help="A .gguf file, or a name of models.yaml.")
]
BackendOption = Annotated[str, typer.Option(help="Backend to build and run.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", file_okay=False, metavar="DIR", help="Folder of the result set.")
]


def command(
    *,
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="A sweep file, or the name of one in configs/.")],
    model: ModelOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs and the time they need; measure nothing.")
    ] = False,
    backend: BackendOption = "cpu",
    out: OutOption = None,
    only: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Run only jobs so named, as 'speed turbo4*'.")
    ] = None,
    kv_center: Annotated[
        str | None, typer.Option("--kv-center", metavar="FILE", help="K's means, for pairs such as turbo4+c/turbo3.")
    ] = None,
    source: SourceOption = None,
) -> None:
    """Run a sweep: measure every cell that its result set lacks, then write and show the tables."""
    request = Request(spec=load_sweep(spec), model=model, backend=backend, source=source, kv_center=kv_center)
    folder = out or result_folder(spec, request.spec.name)
    if dry_run:
        show_plan(preview(request), folder, only)
        return
    finish(run_sweep(prepare(request), folder, only=only))


def result_folder(ref: str, name: str) -> Path:
    """Return `results/NAME` of the checkout for a sweep that lives in its configs, else of the current folder."""
    path, checkout = Path(ref).expanduser(), project_dir()
    is_ours = not path.is_file() or path.resolve().is_relative_to(configs_dir().resolve())
    is_checkout = (checkout / "pyproject.toml").is_file() and os.access(checkout, os.W_OK)
    return (checkout if is_ours and is_checkout else Path.cwd()) / "results" / name


def show_plan(prepared: Prepared, folder: Path, only: str | None) -> None:
    """Print each missing job with its cell ids and expected time."""
    records = read(folder / RECORDS)
    jobs = jobs_of(prepared)
    check_only(jobs, only)
    finished = frozenset(
        (r["cell_id"], r["round"]) for r in records if r["kind"] == "cell" and r["outcome"] == "measured"
    )
    todo = pending(jobs, finished, only)
    eta = eta_model(prepared, jobs, records)
    walls = [eta.predict(works_of(job, prepared.spec)) for job in todo]
    for job, wall_s in zip(todo, walls, strict=True):
        ids = " ".join(cell.id for cell in job.cells)
        console.out.print(f"{label(job):<44} {duration(wall_s):>8}  {ids}", markup=False)
    console.done(f"{len(todo)} of {len(jobs)} jobs to run, about {duration(sum(walls))}; nothing was run")


def finish(end: SweepEnd) -> None:
    """Write and show the report of a finished sweep; raises SweepIncompleteError when cells failed."""
    # Late: pandas and jinja2 take longer to import than all the cached stages together.
    from turbobench import report  # noqa: PLC0415

    if end.n_measured + end.n_skipped + len(end.failed) == 0:
        console.done(f"sweep: {end.n_cached} cells (cached)")
    else:
        console.done(f"sweep: {end.n_measured} cells measured, {end.n_cached} cached, {end.n_skipped} skipped")
    made = report.load(end.folder)
    path = report.write(made, end.folder)
    report.show(made, console.out)
    console.done(f"report: {path}")
    made.check()
    if end.failed:
        raise SweepIncompleteError(
            f"{len(end.failed)} jobs failed, the first: {end.failed[0]}",
            "everything else is stored; run the same command again to retry them",
        )
