"""Runs what a sweep still lacks: plan minus finished cells, one process at a time, each stored the moment it ends."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from turbobench import __version__, base_logits, console, proc, room
from turbobench.base_logits import BaseLogits, BaseSource, base_path
from turbobench.config import SweepSpec
from turbobench.errors import ConfigError, StoreError
from turbobench.eta import CPU_REFERENCE, GPU_REFERENCE, EtaModel
from turbobench.gpu import Gpu
from turbobench.machine import Machine, busy_cores, host_id
from turbobench.matrix import Job, plan
from turbobench.model import ModelFacts
from turbobench.outcome import Failed, Measured, Skipped
from turbobench.paths import cache_dir
from turbobench.runner import Executor, RunContext, run_job, unservable
from turbobench.store import SCHEMA, Record, Store, open_store
from turbobench.sweep_view import EtaColumn, SweepView, label, works_of

if TYPE_CHECKING:
    from turbobench.build import Build
    from turbobench.corpora import Corpus

_NOISY_CORES = 0.3
_LEAST_TIMEOUT_S = 1800.0
_TIMEOUT_FACTOR = 20.0
_BASE_TIMEOUT_S = 24 * 3600.0  # a large model may need hours; only a hang needs more than a day


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCenter:
    """A file of K's means, by whose content cells that use it are named."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All the values that a sweep needs before its first cell.

    `quality_models` are the files that quality cells evaluate, by `weights`; `kv_center` the file of K's means.
    """

    spec: SweepSpec
    build: Build
    model: ModelFacts
    quality_models: Mapping[str, Path]
    corpus: Corpus | None
    machine: Machine
    gpus: tuple[Gpu, ...] = ()
    kv_center: KVCenter | None = None

    @property
    def device(self) -> str:
        """Return what measures, as cells and reports name it."""
        if self.gpus:
            return " + ".join(gpu.name for gpu in self.gpus)
        return f"{self.machine.cpu}, {self.machine.cores} cores"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepEnd:
    """How many cells of the plan were cached before, and how the others ended."""

    folder: Path
    n_cached: int
    n_measured: int
    n_skipped: int
    failed: tuple[str, ...]


def jobs_of(prepared: Prepared) -> list[Job]:
    """Return the plan of a prepared sweep."""
    return plan(
        prepared.spec,
        build_id=prepared.build.id,
        model=prepared.model,
        corpus_sha256=prepared.corpus.sha256 if prepared.corpus else None,
        device=prepared.device,
        kv_center=prepared.kv_center.sha256 if prepared.kv_center else None,
    )


def check_only(jobs: Iterable[Job], only: str | None) -> None:
    """Raise ConfigError if no job's label matches the glob `only`."""
    if only is not None and not _named(jobs, only):
        raise ConfigError(f"no job matches --only {only!r}", "see their names with --dry-run; quote the pattern")


def pending(jobs: Iterable[Job], finished: frozenset[tuple[str, int]], only: str | None) -> list[Job]:
    """Return the jobs with a cell that is not finished, of those whose label matches the glob `only`."""
    return [job for job in _named(jobs, only) if any((cell.id, job.round) not in finished for cell in job.cells)]


def _named(jobs: Iterable[Job], only: str | None) -> list[Job]:
    return [job for job in jobs if only is None or fnmatch.fnmatchcase(label(job), only)]


def eta_model(prepared: Prepared, jobs: Iterable[Job], records: Iterable[Record]) -> EtaModel:
    """Return a cost model that has learnt from every finished job of this plan."""
    reference = CPU_REFERENCE if prepared.build.backend == "cpu" else GPU_REFERENCE
    model = EtaModel(reference, n_params=prepared.model.n_params)
    walls = {r["job"]: r["job_wall_s"] for r in records if r["kind"] == "cell" and r["outcome"] == "measured"}
    for job in jobs:
        wall_s = walls.get(f"{job.cells[0].id}-r{job.round}")
        if wall_s is not None:
            model.observe(works_of(job, prepared.spec), wall_s)
    return model


def run_sweep(prepared: Prepared, folder: Path, *, only: str | None = None, executor: Executor = proc.run) -> SweepEnd:
    """Measure every cell that `folder` lacks and append it there; a cell that failed before is tried again.

    Raises CorpusError, DiskFullError, MemoryShortError, StoreError. On KeyboardInterrupt every finished cell is in the
    store.
    """
    jobs = jobs_of(prepared)
    check_only(jobs, only)
    with open_store(folder) as store:
        todo = pending(jobs, store.finished(), only)
        n_cached = sum(len(job.cells) for job in jobs) - sum(
            len(job.cells) for job in pending(jobs, store.finished(), None)
        )
        _check_room(todo, prepared)
        sweep_id = _begin(store, prepared, jobs)
        end = SweepEnd(folder=folder, n_cached=n_cached, n_measured=0, n_skipped=0, failed=())
        if todo:
            _warn_if_busy(todo)
            end = _run_jobs(todo, prepared, store, sweep_id, executor, eta_model(prepared, jobs, store.records))
        _remove_bases(prepared.spec, jobs)
    return replace(end, n_cached=n_cached)


def _check_room(todo: Iterable[Job], prepared: Prepared) -> None:
    model = prepared.model
    cells = [cell for job in todo for cell in job.cells if unservable(cell, model) is None]
    room.check(room.needs(cells, model, prepared.quality_models, on_cpu=prepared.build.backend == "cpu"))


def _remove_bases(spec: SweepSpec, jobs: Iterable[Job]) -> None:
    """Drop the base logits of a sweep that came to its end; an interrupted one keeps them for the next run."""
    if spec.quality is not None and not spec.quality.keep_base:
        for path in {base_path(job.cells[0]) for job in jobs if job.cells[0].kind in ("quality", "floor")}:
            base_logits.remove(path)


def _run_jobs(
    todo: list[Job], prepared: Prepared, store: Store, sweep_id: str, executor: Executor, eta: EtaModel
) -> SweepEnd:
    ctx = _context(prepared, executor)
    counts = {"measured": 0, "skipped": 0}
    failed: list[str] = []
    with console.progress(extra=EtaColumn()) as display:
        view = SweepView(display, todo, prepared.spec, eta)
        for index, job in enumerate(todo):
            view.begin(index)
            timeout_s = max(_LEAST_TIMEOUT_S, _TIMEOUT_FACTOR * eta.predict(works_of(job, prepared.spec)))
            ends = run_job(job, replace(ctx, timeout_s=timeout_s), view.line)
            for end in ends:
                store.append(end.record(sweep_id))
                match end.outcome:
                    case Measured():
                        counts["measured"] += 1
                    case Failed(reason=reason):
                        failed.append(f"{label(job)}: {reason}")
                    case Skipped():
                        counts["skipped"] += 1
                    case _:
                        assert_never(end.outcome)
            if isinstance(ends[0].outcome, Measured):
                eta.observe(works_of(job, prepared.spec), ends[0].job_wall_s)
            elif isinstance(ends[0].outcome, Failed):
                console.warn(f"{label(job)} failed: {ends[0].outcome.reason}")
            view.end(index)
    return SweepEnd(
        folder=store.path.parent,
        n_cached=0,
        n_measured=counts["measured"],
        n_skipped=counts["skipped"],
        failed=tuple(dict.fromkeys(failed)),
    )


def _context(prepared: Prepared, executor: Executor) -> RunContext:
    def run_base(command: proc.Command, on_line: Callable[[str], None]) -> proc.Completed:
        return executor(replace(command, timeout_s=_BASE_TIMEOUT_S), on_line=on_line)

    build, speed = prepared.build, prepared.spec.speed
    source = BaseSource(
        program=build.program("llama-perplexity"),
        models=prepared.quality_models,
        corpus=prepared.corpus.path if prepared.corpus else Path(),
        n_vocab=prepared.model.n_vocab,
    )
    return RunContext(
        executor=executor,
        bin_dir=build.bin_dir,
        backend=build.backend,
        model=prepared.model,
        quality_models=prepared.quality_models,
        kv_center=prepared.kv_center.path if prepared.kv_center else None,
        base=BaseLogits(source=source, run=run_base),
        n_prompt=speed.pp if speed else 0,
        n_gen=speed.tg if speed else 0,
        log_dir=cache_dir() / "logs" / prepared.spec.name,
        program=build.program,
        timeout_s=_LEAST_TIMEOUT_S,
    )


def _begin(store: Store, prepared: Prepared, jobs: list[Job]) -> str:
    """Write the provenance of this run, unless the last one in the store is the same; returns its id."""
    planned = list(dict.fromkeys(cell.id for job in jobs for cell in job.cells))
    provenance = _provenance(prepared)
    last = next((record for record in reversed(store.records) if record["kind"] == "sweep"), None)
    if last is not None and last.get("host") != host_id():
        # Cells are named by what was asked, so another machine's would be taken for finished ones.
        raise StoreError(
            f"{store.path.parent} was measured on another machine", "give this machine a folder of its own with --out"
        )
    if last is not None and last["provenance"]["model"]["sha256"] != provenance["model"]["sha256"]:
        raise StoreError(
            f"{store.path.parent} holds results of {last['provenance']['model']['file']}, and a set is of one model",
            f"give those of {prepared.model.path.name} a folder of their own with --out",
        )
    if last is not None and (last["planned"], last["provenance"]) == (planned, provenance):
        return str(last["sweep_id"])
    now = datetime.now(UTC)
    sweep_id = now.strftime("%Y%m%dT%H%M%SZ")
    store.append(
        {
            "schema": SCHEMA,
            "kind": "sweep",
            "sweep_id": sweep_id,
            "date": now.isoformat(timespec="seconds"),
            "set": store.path.parent.name,
            "host": host_id(),
            "provenance": provenance,
            "planned": planned,
        }
    )
    return sweep_id


def _provenance(prepared: Prepared) -> dict[str, Any]:
    """Return what two results must share to be compared, as JSON values without a path of this machine."""
    build, model, corpus = prepared.build, prepared.model, prepared.corpus
    return {
        "turbobench": __version__,
        "spec": prepared.spec.model_dump(mode="json"),
        "pin": build.base_commit,
        "tree_id": build.tree_id,
        "build_id": build.id,
        "backend": build.backend,
        "cmake_flags": list(build.cmake_flags),
        "compiler": build.compiler,
        "build_notes": list(build.notes),
        "device": prepared.device,
        "machine": asdict(prepared.machine),
        # None of their UUIDs: a record names a kind of device, not one owner's.
        **({"gpus": [_gpu_fields(gpu) for gpu in prepared.gpus]} if prepared.gpus else {}),
        "model": {
            "name": model.name,
            "file": model.path.name,
            "sha256": model.sha256,
            "arch": model.arch,
            "file_type": model.file_type,
            "n_params": model.n_params,
            "n_layer": model.n_layer,
            "head_dim_k": model.head_dim_k,
            "head_dim_v": model.head_dim_v,
            **({"random_weights": True} if model.random_weights else {}),
        },
        "corpus": None if corpus is None else {"name": corpus.name, "sha256": corpus.sha256},
        **({"kv_center": prepared.kv_center.sha256} if prepared.kv_center else {}),
    }


def _gpu_fields(gpu: Gpu) -> dict[str, Any]:
    return {"name": gpu.name, "arch": gpu.arch, "memory_mib": gpu.memory_mib, "driver": gpu.driver}


def _warn_if_busy(todo: list[Job]) -> None:
    if not any(job.cells[0].kind == "speed" for job in todo):
        return
    busy = busy_cores()
    if busy is not None and busy > _NOISY_CORES:
        console.warn(f"other programs use {busy:.1f} cores at this moment: the timings will be noisy")
