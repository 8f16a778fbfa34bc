"""Calibration: a model and a text -> the key center file, measured through the patched llama.cpp itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from turbobench import backends, console, proc
from turbobench.build import Build
from turbobench.corpora import Corpus
from turbobench.errors import AccessError, ModelError
from turbobench.kv_center import (
    Provenance,
    Statistics,
    context_lengths,
    energy_left,
    make_center,
    read_statistics,
    write_center,
)
from turbobench.model import RANDOM_WEIGHTS, ModelFacts
from turbobench.paths import cache_dir, kv_center_beside, scratch_dir
from turbobench.programs import kv_center as program
from turbobench.programs.kv_center import CenterRequest

_DEFAULT_N_CTX = 8192  # what fits one minute or few; a user of longer contexts asks for more
_TOKENS = 8192  # one text says as much of the mean as another: 256 tokens of two leave 38.7 % and 39.2 % of the energy


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is to be measured. `n_ctx` is how many positions the center is to cover, each in at least one sequence."""

    model: ModelFacts
    text: Corpus
    n_ctx: int
    out: Path
    n_tokens: int = _TOKENS

    @property
    def chunks(self) -> int:
        return max(1, self.n_tokens // self.n_ctx)


def plan(model: ModelFacts, text: Corpus, *, n_ctx: int | None, out: Path | None, force: bool) -> Calibration:
    """Return what to measure, with the defaults filled in; refuses before anything is built.

    ModelError for a model whose keys cannot be centred, AccessError for a file that is there already.
    """
    if reason := _unsuitable(model):
        raise ModelError(f"the keys of {model.path.name} cannot be centred: {reason}", "run it without a key center")
    target = out or kv_center_beside(model.path)
    if target.exists() and not force:
        raise AccessError(f"{target} exists", "give --force to measure again and replace it, or another --out")
    wanted = n_ctx or min(model.n_ctx_train or _DEFAULT_N_CTX, _DEFAULT_N_CTX)
    if model.n_ctx_train and wanted > model.n_ctx_train:
        raise ModelError(
            f"{model.path.name} was trained on {model.n_ctx_train} positions, --n-ctx {wanted} is beyond them",
            f"give --n-ctx {model.n_ctx_train} or less",
        )
    return Calibration(model=model, text=text, n_ctx=wanted, out=target)


def calibrate(wanted: Calibration, build: Build) -> Path:
    """Measure, and write the center beside the model; returns the file.

    Raises CorpusError for a text that is too short, MeasurementError if llama-kv-center fails.
    """
    with scratch_dir(cache_dir()) as scratch:
        stats = _measure(wanted, build, scratch / "statistics.gguf")
    center = make_center(stats)
    for length in context_lengths(stats.n_ctx):
        left = energy_left(stats, center, length)
        console.done(f"in a context of {length}: {left:.0%} of the keys' energy is left to quantize")
    made_of = Provenance(
        model_name=wanted.model.name or wanted.model.path.name,
        model_sha256=wanted.model.sha256,
        text=wanted.text.name,
        text_sha256=wanted.text.sha256,
    )
    write_center(center, stats, made_of, wanted.out)
    return wanted.out


def _unsuitable(model: ModelFacts) -> str | None:
    if model.random_weights:
        return f"it has {RANDOM_WEIGHTS}"
    if model.is_mla:
        return "it uses multi-head latent attention (MLA), whose cache holds no plain keys"
    if model.has_indexer:
        return "its sparse-attention indexer keeps keys of its own"
    if not any(model.kv_layers):
        return "it has no attention layers with a cache"
    return None


def _measure(wanted: Calibration, build: Build, out: Path) -> Statistics:
    request = CenterRequest(
        n_ctx=wanted.n_ctx, chunks=wanted.chunks, n_gpu_layers=backends.get(build.backend).N_GPU_LAYERS
    )
    argv = program.argv(build.program("llama-kv-center"), wanted.model.path, wanted.text.path, out, request)
    lines: list[str] = []
    with console.progress() as display:
        task = display.add_task(f"measuring K at positions 0 to {wanted.n_ctx}", total=wanted.chunks)

        def show(line: str) -> None:
            lines.append(line)
            if (done := program.chunks_done(line)) is not None:
                display.update(task, completed=done)

        log = cache_dir() / "logs" / f"calibrate-{wanted.model.path.stem}.log"
        ended = proc.run(proc.Command(argv=argv, log=log, echo=True), on_line=show)
    if not ended.ok:
        raise program.failure("\n".join(lines))
    return read_statistics(out)
