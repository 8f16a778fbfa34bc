"""Everything a sweep needs before its first cell: source, patched tree, build, model, text; each said, and cached."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from turbobench import backends, console
from turbobench.build import DEFAULT_TARGETS, MORE_TARGETS, Build, build, find_build
from turbobench.config import SweepSpec
from turbobench.corpora import Corpus, check_long_enough, resolve_corpus
from turbobench.errors import ConfigError, ModelError, ToolchainError
from turbobench.hashing import cached_sha256
from turbobench.kv_center import read_header
from turbobench.kvtypes import KV_TYPES
from turbobench.machine import this_machine
from turbobench.model import RANDOM_WEIGHTS, ModelFacts, read_facts
from turbobench.models import resolve_model
from turbobench.paths import cache_dir, kv_center_beside
from turbobench.smoke import smoke
from turbobench.source import fetch, load_pin
from turbobench.stack import PatchedTree, apply
from turbobench.sweep import KVCenter, Prepared
from turbobench.weights import expand_to_f16

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for on the command line. `None` takes the default."""

    spec: SweepSpec
    model: str | None = None
    backend: str = "cpu"
    source: str | None = None
    kv_center: str | None = None


def prepare(request: Request) -> Prepared:
    """Run the stages in the order in which they fail fastest; raises the error of the stage that fails."""
    spec = request.spec
    check_types(spec, request.backend)
    _check_device(request.backend)
    model, corpus = inputs(request)
    kv_center = _kv_center(request, model, corpus)
    targets = DEFAULT_TARGETS + (MORE_TARGETS["server"] if spec.niah is not None else ())
    made = _build(patched_tree(request), request.backend, targets)
    quality_models = {"as-is": model.path}
    if "f16" in {part.weights for part in (spec.quality, spec.niah) if part is not None}:
        quality_models["f16"] = _stage(
            "f16 weights", lambda: expand_to_f16(model, made.program("llama-quantize")), lambda path: path
        )
    return Prepared(
        spec=spec,
        build=made,
        model=model,
        quality_models=quality_models,
        corpus=corpus,
        machine=this_machine(),
        gpus=backends.get(request.backend).gpus(),
        kv_center=kv_center,
    )


def preview(request: Request) -> Prepared:
    """Return what `prepare` would, without compiling or expanding anything: enough to plan, and not to run.

    Where there is no build yet its id is `unbuilt`, and the cell ids are not those that a run will have.
    """
    backends.get(request.backend)
    check_types(request.spec, request.backend)
    model, corpus = inputs(request)
    tree = patched_tree(request)
    found = find_build(tree, request.backend)
    if found is None:
        console.warn("there is no build yet, so the cell ids are not final; 'turbobench build' makes one")
        found = _unbuilt(tree, request.backend)
    return Prepared(
        spec=request.spec,
        build=found,
        model=model,
        quality_models={"as-is": model.path, "f16": model.path},
        corpus=corpus,
        machine=this_machine(),
        gpus=backends.get(request.backend).gpus(),
        kv_center=_kv_center(request, model, corpus),
    )


def _kv_center(request: Request, model: ModelFacts, corpus: Corpus | None) -> KVCenter | None:
    """Return the file of K's means, if a pair of the sweep uses one: the one named, else the one beside the model.

    Raises ConfigError if it is not there, is of another architecture, or was made of the very text that quality is
    measured on: a center knows its text better than any other. Whether it fits the model in all is llama.cpp's to say.
    """
    if not request.spec.centered:
        return None
    given = request.kv_center or request.spec.kv_center
    path = Path(given).expanduser() if given else kv_center_beside(model.path)
    if not path.is_file():
        raise ConfigError(
            f"{request.spec.centered[0].short} needs a file of K's means, and there is no {path}",
            "make it with 'turbobench calibrate', or give another with --kv-center or as kv_center: in the sweep",
        )
    header = read_header(path)
    if header.architecture != model.arch:
        raise ConfigError(
            f"{path} has K's means of a {header.architecture} model, and {model.path.name} is a {model.arch} model",
            "make its own with 'turbobench calibrate'",
        )
    if request.spec.quality is not None and corpus is not None and header.text_sha256 == corpus.sha256:
        raise ConfigError(
            f"{path} was made of {header.text}, the text that quality is measured on: that would flatter centred pairs",
            "make it again with 'turbobench calibrate --force', which reads the second half of a text",
        )
    return KVCenter(path=path.resolve(), sha256=cached_sha256(path))


def check_types(spec: SweepSpec, backend: str) -> None:
    """Raise ConfigError where a pair needs a type that the backend has no kernels for: llama.cpp would refuse it.

    The codec section runs on the CPU in every build, so all types are fine there.
    """
    backends.get(backend)
    for pair in spec.used_pairs:
        for name in sorted(pair.types_used(0) | pair.types_used(1)):
            if not KV_TYPES[name].runs_on(backend):
                raise ConfigError(
                    f"{pair.short} cannot be measured on {backend}: it has no kernels for {name}",
                    f"leave the pair out, or use a backend that has {name}: {KV_TYPES[name].places}",
                )


def _check_device(backend: str) -> None:
    module = backends.get(backend)
    if module.N_GPU_LAYERS is not None and not module.gpus():
        raise ToolchainError(
            f"nothing can be measured on backend {backend}: {module.unavailable() or 'there is no device'}",
            "see 'turbobench doctor'",
        )


def inputs(request: Request) -> tuple[ModelFacts, Corpus | None]:
    """Return the model's facts and the text, if the sweep reads one; raises ModelError, CorpusError, FetchError."""
    spec = request.spec
    ref = request.model if request.model is not None else spec.model
    facts = _stage("model", lambda: read_facts(resolve_model(ref)), lambda found: found.path)
    reader = spec.quality or spec.niah
    if reader is None:
        return facts, None
    if facts.random_weights:
        raise ModelError(
            f"{facts.path.name} has {RANDOM_WEIGHTS}: perplexity and KL divergence would mean nothing",
            "remove 'quality' and 'niah' from the sweep, or give a real model with -m",
        )
    corpus = _stage("text", lambda: resolve_corpus(reader.corpus), lambda found: found.path)
    if spec.quality is not None:
        for n_ctx in spec.quality.n_ctx:
            check_long_enough(corpus, n_ctx=n_ctx, chunks=spec.quality.chunks_of(n_ctx))
    if spec.niah is not None:
        check_long_enough(corpus, n_ctx=max(spec.niah.n_ctx), chunks=1)
    return facts, corpus


def patched_tree(request: Request) -> PatchedTree:
    """Return the pinned source with the stack and the kernels in."""
    source = _stage("source", lambda: fetch(load_pin(), source=request.source), lambda tree: tree.path)
    return _stage("patched tree", lambda: apply(source), lambda tree: tree.path)


def _build(tree: PatchedTree, backend: str, targets: tuple[str, ...]) -> Build:
    found = find_build(tree, backend)
    # `build` goes through its own checks also when there is one: a program may have been removed since.
    made = build(tree, backend, smoke=functools.partial(smoke, backend=backend), targets=targets)
    _say("build", made.id, cached=found is not None and found.built_at == made.built_at)
    return made


def _unbuilt(tree: PatchedTree, backend: str) -> Build:
    return Build(
        id="unbuilt",
        backend=backend,
        tree_id=tree.tree_id,
        base_commit=tree.base_commit,
        bin_dir=tree.path,
        cmake_flags=(),
        compiler="",
        cpu="",
        notes=(),
        built_at="",
    )


def _stage(name: str, work: Callable[[], Value], path_of: Callable[[Value], Path]) -> Value:
    started = time.time()
    value = work()
    path = path_of(value)
    # A file or folder that came into place during the stage has a younger change time than the stage.
    _say(name, path.name, cached=path.is_relative_to(cache_dir()) and path.stat().st_ctime < started - 0.01)
    return value


def _say(name: str, what: str, *, cached: bool) -> None:
    console.done(f"{name}: {what}" + (" (cached)" if cached else ""))
