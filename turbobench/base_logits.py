"""The f16 log-probs that KLD cells compare with: made once for a build, model, text and n_ctx, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from turbobench import proc
from turbobench.errors import CorpusError, DiskFullError, MeasurementError
from turbobench.matrix import F16, PREFILL_UBATCH, Cell
from turbobench.outcome import Perplexity
from turbobench.paths import atomic_path, cache_dir
from turbobench.programs import perplexity
from turbobench.programs.perplexity import BaseHeader, PplRequest

# What two cells must share to be compared with one base. The path and the number of chunks are not among it: the decode
# path is compared with the base of the prompt's path (see matrix), and reads as many of its chunks as it wants.
_IDENTITY = ("build_id", "device", "model_sha256", "corpus_sha256", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSource:
    """All that a base is made from. `models` are the files that are evaluated, by `weights`: f16 or as-is."""

    program: Path
    models: Mapping[str, Path]
    corpus: Path
    n_vocab: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A base file that is there and is what it should be; `ppl_by_chunk` is the running PPL of its evaluation."""

    path: Path
    header: BaseHeader
    ppl_by_chunk: tuple[float, ...]


def base_path(cell: Cell) -> Path:
    """Return where the base of `cell` lives: one name for each build, model, form of the weights, text and n_ctx."""
    fields = cell.fields()
    shared = {name: fields[name] for name in _IDENTITY} | {"weights": cell.params["weights"]}
    name = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "base" / f"{name}.logits"


def remove(path: Path) -> None:
    """Remove a base and what is known of it."""
    path.unlink(missing_ok=True)
    _facts_path(path).unlink(missing_ok=True)


@dataclass(slots=True)
class BaseLogits:
    """The bases of one sweep; a failure to make one is remembered, so that it is tried once and not for each cell."""

    source: BaseSource
    run: Callable[[proc.Command, Callable[[str], None]], proc.Completed]
    _failures: dict[Path, str] = field(default_factory=dict)

    def make(self, cell: Cell, request: PplRequest, log: Path, on_line: Callable[[str], None]) -> Perplexity:
        """Evaluate the text with f16 K/V and write the base; returns its perplexity.

        Raises CorpusError for a short text, DiskFullError, MeasurementError, CommandError.
        """
        path = base_path(cell)
        lines: list[str] = []

        def take(line: str) -> None:
            lines.append(line)
            on_line(line)

        with atomic_path(path) as temporary:
            model = self.source.models[str(cell.params["weights"])]
            argv = perplexity.argv_base(self.source.program, model, self.source.corpus, temporary, request)
            completed = self.run(proc.Command(argv=argv, log=log, env=request.pair.env), take)
            if not completed.ok:
                raise proc.CommandError(completed)
            output = "\n".join(lines)
            ppl, error = perplexity.parse_plain(output)
            header = perplexity.read_base_header(temporary)
            self._check_made(header, request)
            facts = {**asdict(header), "ppl_by_chunk": perplexity.parse_chunks(output)}
            with atomic_path(_facts_path(path)) as facts_file:
                facts_file.write_text(json.dumps(facts))
        return Perplexity(ppl=ppl, ppl_err=error)

    def ensure(self, cell: Cell, request: PplRequest, log: Path, on_line: Callable[[str], None]) -> Base:
        """Return the base for `cell`, made now if there is none with as many chunks; raises like `make`.

        MeasurementError if there is one that is of another text, n_ctx or vocabulary.
        """
        path = base_path(cell)
        found = self._read(path, request)
        if found is not None:
            return found
        if path in self._failures:
            raise MeasurementError(self._failures[path], "mend that, then run the same command again")
        try:
            self.make(
                cell, replace(request, pair=F16, n_ubatch=PREFILL_UBATCH, kv_center=None, kv_types=None), log, on_line
            )
        except (CorpusError, DiskFullError):
            raise
        except (MeasurementError, proc.CommandError) as failure:
            self._failures[path] = f"the f16 base could not be made: {failure.what.splitlines()[0]}"
            raise
        made = self._read(path, request)
        if made is None:
            raise MeasurementError(f"the f16 base {path.name} is gone", "run the same command again")
        return made

    def fail(self, cell: Cell, reason: str) -> None:
        """Remember that the base of `cell` cannot be made."""
        self._failures[base_path(cell)] = reason

    def _read(self, path: Path, request: PplRequest) -> Base | None:
        """Return the base at `path` if it serves `request`; None if there is none, or one of too few chunks."""
        try:
            facts = json.loads(_facts_path(path).read_text())
            ppl_by_chunk = tuple(facts.pop("ppl_by_chunk"))
            expected = BaseHeader(**facts)
            header = perplexity.read_base_header(path)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        wanted = (request.n_ctx, self.source.n_vocab)
        if (header.n_ctx, header.n_vocab) != wanted or header != expected:
            raise MeasurementError(
                f"the base {path.name} is of another text, n_ctx or vocabulary: it has {_said(header)}, "
                f"and {_said(replace(expected, n_ctx=wanted[0], n_vocab=wanted[1]))} is wanted",
                f"remove {path}, and the next run makes it again",
            )
        if header.chunks < request.chunks:
            return None
        return Base(path=path, header=header, ppl_by_chunk=ppl_by_chunk)

    def _check_made(self, header: BaseHeader, request: PplRequest) -> None:
        if header.chunks < request.chunks:
            raise CorpusError(
                f"the text is too short: it gives {header.chunks} chunks of {request.n_ctx} tokens, "
                f"not {request.chunks}",
                "give a longer text, or a smaller n_ctx or fewer chunks",
            )
        wanted = replace(header, n_ctx=request.n_ctx, n_vocab=self.source.n_vocab, chunks=request.chunks)
        if header != wanted:
            raise MeasurementError(
                f"the f16 base has {_said(header)} instead of {_said(wanted)}", "its log says why; run it again"
            )


def _said(header: BaseHeader) -> str:
    return f"{header.chunks} chunks of {header.n_ctx}, vocabulary {header.n_vocab}, tokens {header.tokens_sha256[:8]}"


def _facts_path(path: Path) -> Path:
    return path.with_suffix(".json")
