"""Runs one job, which is one process, and says how each of its cells ended. The executor is injected."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, assert_never

from turbobench import backends, kld_tokens, layer_types, native, niah, niah_client, placement, proc
from turbobench import model as models
from turbobench.base_logits import BaseLogits
from turbobench.errors import CorpusError, DiskFullError, TurbobenchError
from turbobench.failures import failed
from turbobench.matrix import Cell, Job
from turbobench.model import ModelFacts
from turbobench.outcome import Divergence, Measured, Measurement, Needles, Nmse, Outcome, Skipped, Speed
from turbobench.paths import cache_dir, scratch_dir
from turbobench.placement import Verdict
from turbobench.programs import llama_bench, perplexity, server
from turbobench.programs.llama_bench import BenchRequest
from turbobench.programs.perplexity import PplRequest
from turbobench.programs.server import ServerRequest
from turbobench.store import CellEnd

_NOISE = re.compile(r"^(llama_graph_n_input_tensors|create_tensor|load_tensors: tensor)|: layer +\d+: dev")

OnLine = Callable[[str], None]


class Executor(Protocol):
    """Runs a command to its end and never raises for a failing one; `proc.run` is the local one."""

    def __call__(self, command: proc.Command, *, on_line: OnLine | None = None) -> proc.Completed: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What every job of a sweep shares.

    `quality_models` are the files that quality cells evaluate, by `weights`; `kv_center` the means of K that centred
    pairs use.
    """

    executor: Executor
    bin_dir: Path
    backend: str
    model: ModelFacts
    quality_models: Mapping[str, Path]
    kv_center: Path | None
    base: BaseLogits
    n_prompt: int
    n_gen: int
    log_dir: Path
    program: Callable[[str], Path]
    timeout_s: float


def unservable(cell: Cell, model: ModelFacts) -> str | None:
    """Return why this model cannot be measured so, None if it can."""
    if cell.n_ctx is not None and 0 < model.n_ctx_train < cell.n_ctx:
        return f"the model was trained on contexts of {model.n_ctx_train} tokens: beyond, f16 itself means nothing"
    return models.preflight(model, cell.pair)


def run_job(job: Job, ctx: RunContext, on_line: OnLine) -> list[CellEnd]:
    """Run a job and return one end for each of its cells.

    Raises CorpusError and DiskFullError, which the next cells would meet too; every other failure is an outcome.
    """
    started = datetime.now(UTC)
    outcomes = _skip(job, ctx)
    if outcomes is None:
        try:
            outcomes = _measure(job, ctx, on_line)
        except (CorpusError, DiskFullError):
            raise
        except TurbobenchError as failure:
            outcomes = [failed(failure, _log_of(job, ctx))] * len(job.cells)
    ended = datetime.now(UTC)
    return [
        CellEnd(
            cell=cell,
            round=job.round,
            outcome=outcome,
            job=f"{job.cells[0].id}-r{job.round}",
            job_wall_s=(ended - started).total_seconds(),
            ended_at=ended.isoformat(timespec="seconds"),
        )
        for cell, outcome in zip(job.cells, outcomes, strict=True)
    ]


def _skip(job: Job, ctx: RunContext) -> list[Outcome] | None:
    if job.cells[0].kind == "nmse":
        if ctx.backend == "cpu":
            return None
        why = f"a {ctx.backend} build fills its cache on the device, and only the CPU's quantizer can be called"
        return [Skipped(reason=why)] * len(job.cells)
    reason = unservable(job.cells[0], ctx.model)
    return None if reason is None else [Skipped(reason=reason)] * len(job.cells)


def _measure(job: Job, ctx: RunContext, on_line: OnLine) -> list[Outcome]:
    cell = job.cells[0]
    match cell.kind:
        case "speed":
            return _speed(job, ctx, on_line)
        case "quality" | "floor":
            return [_base(job, ctx, on_line) if job.makes_base else _kld(job, ctx, on_line)]
        case "niah":
            return [_niah(job, ctx, on_line)]
        case "nmse":
            return [_nmse(job, ctx)]
        case _:
            assert_never(cell.kind)


def _speed(job: Job, ctx: RunContext, on_line: OnLine) -> list[Outcome]:
    cell = job.cells[0]
    request = BenchRequest(
        pair=cell.pair,
        n_depth=cell.n_depth or 0,
        n_prompt=ctx.n_prompt,
        n_gen=ctx.n_gen,
        repetitions=int(cell.params["repetitions"]),
        n_threads=_threads(cell),
        n_gpu_layers=backends.get(ctx.backend).N_GPU_LAYERS,
        kv_center=ctx.kv_center,
        kv_types=_kv_types(cell),
    )
    facts: list[str] = []

    def take(line: str) -> None:
        if placement.is_fact(line):
            facts.append(line)
        on_line(line)

    log = _log_of(job, ctx)
    argv = llama_bench.argv(ctx.program("llama-bench"), ctx.model.path, request)
    with backends.get(ctx.backend).peak_memory() as memory:
        command = proc.Command(argv=argv, log=log, timeout_s=ctx.timeout_s, env=cell.pair.env)
        completed = _run(ctx, command, take)
    rows = llama_bench.parse(completed.stdout)
    llama_bench.check_asked(rows, request)
    _drop_noise(log)
    # llama-bench makes one context for each test, in the order of its rows.
    observed = placement.observe(facts)
    by_test = dict(zip((row.test for row in rows), observed, strict=True)) if len(rows) == len(observed) else {}
    by_name = {row.test: row for row in rows}
    return [
        _measured(
            cell,
            ctx,
            Speed(
                n_tokens=by_name[cell.test].n_tokens,
                n_threads=by_name[cell.test].n_threads,
                samples_ns=by_name[cell.test].samples_ns,
            ),
            by_test.get(cell.test),
            memory.mib if memory else None,
        )
        for cell in job.cells
    ]


def _base(job: Job, ctx: RunContext, on_line: OnLine) -> Outcome:
    cell = job.cells[0]
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        on_line(line)

    try:
        found = ctx.base.make(cell, _ppl_request(cell, ctx), _log_of(job, ctx), take)
    except (CorpusError, DiskFullError):
        raise
    except TurbobenchError as failure:
        ctx.base.fail(cell, f"the f16 base could not be made: {failure.what.splitlines()[0]}")
        raise
    observed = placement.observe(lines)
    return _measured(cell, ctx, found, observed[-1] if observed else None)


def _kld(job: Job, ctx: RunContext, on_line: OnLine) -> Outcome:
    cell, log = job.cells[0], _log_of(job, ctx)
    request = _ppl_request(cell, ctx)
    base = ctx.base.ensure(cell, request, log, on_line)
    lines: list[str] = []

    def take(line: str) -> None:
        lines.append(line)
        on_line(line)

    program, model = ctx.program("llama-perplexity"), ctx.quality_models[str(cell.params["weights"])]
    with scratch_dir(cache_dir()) as scratch:
        token_file = scratch / "kld.f32"
        argv = perplexity.argv_kld(program, model, base.path, request, tokens=token_file)
        _run(ctx, proc.Command(argv=argv, log=log, timeout_s=ctx.timeout_s, env=cell.pair.env), take)
        stats = perplexity.parse_kld("\n".join(lines))
        perplexity.check_differs(stats, cell.pair)
        perplexity.check_base_ppl(stats, base.ppl_by_chunk[request.chunks - 1])
        tokens = kld_tokens.read(token_file, n_ctx=request.n_ctx, chunks=request.chunks, printed_mean=stats.kld_mean)
    observed = placement.observe(lines)
    return _measured(cell, ctx, Divergence(stats=stats, tokens=tokens), observed[-1] if observed else None)


def _niah(job: Job, ctx: RunContext, on_line: OnLine) -> Outcome:
    cell = job.cells[0]
    if cell.n_ctx is None:
        raise ValueError(f"a needle cell has n_ctx: {cell}")
    request = ServerRequest(
        pair=cell.pair,
        n_ctx=cell.n_ctx,
        n_threads=_threads(cell),
        n_gpu_layers=backends.get(ctx.backend).N_GPU_LAYERS,
        kv_center=ctx.kv_center,
        kv_types=_kv_types(cell),
    )
    model = ctx.quality_models[str(cell.params["weights"])]
    wanted = niah_client.Job(
        server=tuple(server.argv(ctx.program("llama-server"), model, request)),
        text=str(ctx.base.source.corpus),
        n_tokens=cell.n_ctx,
        positions=tuple(map(float, str(cell.params["positions"]).split())),
        seeds=int(cell.params["seeds"]),
        keys=int(cell.params["keys"]),
    )
    facts: list[str] = []

    def take(line: str) -> None:
        if placement.is_fact(line):
            facts.append(line)
        on_line(line)

    argv = niah_client.argv(wanted)
    command = proc.Command(argv=argv, log=_log_of(job, ctx), timeout_s=ctx.timeout_s, env=cell.pair.env)
    completed = _run(ctx, command, take)
    expected = niah.trials(wanted.positions, seeds=wanted.seeds, keys=wanted.keys)
    found = niah_client.parse(completed.stdout, expected)
    observed = placement.observe(facts)
    return _measured(cell, ctx, Needles(trials=found), observed[-1] if observed else None)


def _nmse(job: Job, ctx: RunContext) -> Outcome:
    cell = job.cells[0]
    argv = native.argv(ctx.bin_dir, cell.pair.type_k, blocks=int(cell.params["blocks"]), seed=int(cell.params["seed"]))
    completed = _run(ctx, proc.Command(argv=argv, log=_log_of(job, ctx), timeout_s=ctx.timeout_s), lambda _: None)
    nmse, n_values = native.parse(completed.stdout)
    # The quantizer was called in the library of this very build: there is no other path it could have taken.
    return Measured(
        measurement=Nmse(nmse=nmse, n_values=n_values), observed=None, verdict=Verdict(placement="verified")
    )


def _measured(
    cell: Cell,
    ctx: RunContext,
    measurement: Measurement,
    observed: placement.Observed | None,
    device_mib_peak: float | None = None,
) -> Measured:
    head_dims = (ctx.model.head_dim_k, ctx.model.head_dim_v)
    verdict = placement.judge(
        observed, cell.pair, backend=ctx.backend, head_dims=head_dims, flash_attn=_flash_attn(cell)
    )
    return Measured(measurement=measurement, observed=observed, verdict=verdict, device_mib_peak=device_mib_peak)


def _run(ctx: RunContext, command: proc.Command, on_line: OnLine) -> proc.Completed:
    completed = ctx.executor(command, on_line=on_line)
    if not completed.ok:
        raise proc.CommandError(completed)
    return completed


def _ppl_request(cell: Cell, ctx: RunContext) -> PplRequest:
    if cell.n_ctx is None or cell.chunks is None:
        raise ValueError(f"a quality cell has n_ctx and chunks: {cell}")
    return PplRequest(
        pair=cell.pair,
        n_ctx=cell.n_ctx,
        chunks=cell.chunks,
        n_threads=_threads(cell),
        n_ubatch=int(cell.params["n_ubatch"]),
        n_gpu_layers=backends.get(ctx.backend).N_GPU_LAYERS,
        kv_center=ctx.kv_center,
        kv_types=_kv_types(cell),
        flash_attn=_flash_attn(cell),
    )


def _flash_attn(cell: Cell) -> bool:
    return cell.params.get("flash_attn") != "off"


def _kv_types(cell: Cell) -> Path | None:
    return layer_types.cached_file(cell.pair.policy) if cell.pair.policy else None


def _threads(cell: Cell) -> int | None:
    return int(cell.params["threads"]) if "threads" in cell.params else None


def _log_of(job: Job, ctx: RunContext) -> Path:
    return ctx.log_dir / f"{job.cells[0].id}-r{job.round}.log"


def _drop_noise(log: Path) -> None:
    """Leave out of a good run's log the tens of thousands of lines that `-v` prints of every tensor."""
    if log.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        log.write_text("".join(line for line in lines if not _NOISE.search(line)), encoding="utf-8")
