"""The f16 log-probs that KLD cells compare with: made once for a build, model, text and size, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from turbobench import proc
from turbobench.errors import CorpusError, DiskFullError, MeasurementError, TurbobenchError
from turbobench.matrix import Cell
from turbobench.outcome import Perplexity
from turbobench.paths import atomic_path, cache_dir
from turbobench.programs import perplexity
from turbobench.programs.perplexity import PplRequest

_SPARE_BYTES = 64 << 20  # logs and records must still fit


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSource:
    """All that a base is made from. `model` is the file that is evaluated, expanded or not."""

    program: Path
    model: Path
    corpus: Path
    n_vocab: int


def base_path(cell: Cell) -> Path:
    """Return where the base of `cell` lives: one name for each build, model, text, size and path."""
    shared = {k: v for k, v in cell.fields().items() if k not in {"kind", "test", "type_k", "type_v"}}
    name = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "base" / f"{name}.logits"


@dataclass(slots=True)
class BaseLogits:
    """The base of one sweep; a failure to make it is remembered, so that it is tried once and not for each cell."""

    source: BaseSource
    run: Callable[[proc.Command, Callable[[str], None]], proc.Completed]
    _failures: dict[Path, str] = field(default_factory=dict)

    def make(self, cell: Cell, request: PplRequest, log: Path, on_line: Callable[[str], None]) -> Perplexity:
        """Evaluate the text with f16 K/V and write the base; returns its perplexity.

        Raises CorpusError for a short text, DiskFullError before anything is run, MeasurementError, CommandError.
        """
        path = base_path(cell)
        size = self._size(request)
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_disk(path.parent, size)
        lines: list[str] = []

        def take(line: str) -> None:
            lines.append(line)
            on_line(line)

        with atomic_path(path) as temporary:
            argv = perplexity.argv_base(self.source.program, self.source.model, self.source.corpus, temporary, request)
            completed = self.run(proc.Command(argv=argv, log=log), take)
            if not completed.ok:
                raise proc.CommandError(completed)
            ppl, error = perplexity.parse_plain("\n".join(lines))
            written = temporary.stat().st_size
            if written != size:
                raise self._wrong_size(written, request)
        return Perplexity(ppl=ppl, ppl_err=error)

    def ensure(self, cell: Cell, request: PplRequest, log: Path, on_line: Callable[[str], None]) -> Path:
        """Return the base for `cell`, made now if there is none; raises like `make`."""
        path = base_path(cell)
        if path.is_file() and path.stat().st_size == self._size(request):
            return path
        if path in self._failures:
            raise MeasurementError(self._failures[path], "mend that, then run the same command again")
        try:
            self.make(cell, request, log, on_line)
        except (CorpusError, DiskFullError):
            raise
        except (MeasurementError, proc.CommandError) as failure:
            self._failures[path] = f"the f16 base could not be made: {failure.what.splitlines()[0]}"
            raise
        return path

    def fail(self, cell: Cell, reason: str) -> None:
        """Remember that the base of `cell` cannot be made."""
        self._failures[base_path(cell)] = reason

    def _wrong_size(self, written: int, request: PplRequest) -> TurbobenchError:
        for chunks in range(1, request.chunks):
            if perplexity.base_bytes(n_vocab=self.source.n_vocab, n_ctx=request.n_ctx, chunks=chunks) == written:
                return CorpusError(
                    f"the text is too short: it gives {chunks} chunks of {request.n_ctx} tokens, not {request.chunks}",
                    "give a longer text, or a smaller n_ctx or fewer chunks",
                )
        return MeasurementError(
            f"the f16 base has {written} bytes instead of {self._size(request)}", "its log says why; run it again"
        )

    def _size(self, request: PplRequest) -> int:
        return perplexity.base_bytes(n_vocab=self.source.n_vocab, n_ctx=request.n_ctx, chunks=request.chunks)


def _check_disk(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE_BYTES:
        raise DiskFullError(
            f"the f16 base logits need {size / 1e9:.2f} GB in {folder}, which has {free / 1e9:.2f} GB free",
            "free some space, set TURBOBENCH_CACHE to a larger disk, or ask for fewer chunks",
        )
