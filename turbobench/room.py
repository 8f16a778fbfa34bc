"""Whether disk and memory suffice for the quality cells of a sweep, said with the figures before the first one runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from turbobench import host, paths
from turbobench.base_logits import base_path
from turbobench.errors import MemoryShortError
from turbobench.matrix import Cell
from turbobench.model import ModelFacts, kv_bytes
from turbobench.programs import perplexity

_SPARE_BYTES = 64 << 20  # logs and records must still fit
_FIXED_BYTES = 300 << 20  # the program, its graph and the vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """`disk_bytes` of base files still to be made; `memory_bytes` of the process that takes most, and which it is."""

    disk_bytes: int
    memory_bytes: int
    largest: str


def needs(cells: Iterable[Cell], model: ModelFacts, files: Mapping[str, Path], *, on_cpu: bool) -> Needs:
    """Predict what the quality cells need; weights and K/V count only where they are in the host's memory."""
    bases: dict[Path, int] = {}
    memory: list[tuple[int, str]] = [(0, "")]
    for cell in cells:
        if cell.n_ctx is None or cell.chunks is None:
            continue
        size = perplexity.base_bytes(n_vocab=model.n_vocab, n_ctx=cell.n_ctx, chunks=cell.chunks)
        path = base_path(cell)
        if not path.is_file():
            bases[path] = max(size, bases.get(path, 0))
        resident = perplexity.peak_bytes(n_vocab=model.n_vocab, n_ctx=cell.n_ctx) + _FIXED_BYTES
        if on_cpu:
            resident += kv_bytes(model, cell.pair, cell.n_ctx) + files[str(cell.params["weights"])].stat().st_size
        memory.append((resident, f"{cell.pair.short} at {cell.n_ctx} tokens"))
    largest = max(memory)
    return Needs(disk_bytes=sum(bases.values()), memory_bytes=largest[0], largest=largest[1])


def check(needed: Needs) -> None:
    """Raise DiskFullError or MemoryShortError, with the figures, where it is not there."""
    if needed.disk_bytes:
        paths.require_free(
            paths.cache_dir() / "base", needed.disk_bytes + _SPARE_BYTES, "the f16 base logits of this sweep"
        )
    available = host.available_memory_bytes()
    if available is not None and available < needed.memory_bytes:
        raise MemoryShortError(
            f"llama-perplexity needs {needed.memory_bytes / 1e9:.1f} GB of memory for {needed.largest}, "
            f"and {available / 1e9:.1f} GB are free",
            "close other programs, or ask for a smaller n_ctx or model",
        )
