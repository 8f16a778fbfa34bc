"""Disk and memory are predicted before the first cell, and their lack is said with the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_files import write_gguf
from tests.test_base_logits import CELL
from turbobench import host, room
from turbobench.base_logits import base_path
from turbobench.errors import DiskFullError, MemoryShortError
from turbobench.model import ModelFacts, kv_bytes, read_facts
from turbobench.programs import perplexity

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    write_gguf(tmp_path / "m.gguf")
    return read_facts(tmp_path / "m.gguf")


def needs(model: ModelFacts, *cells: object, on_cpu: bool = True) -> room.Needs:
    return room.needs(cells, model, {"f16": model.path}, on_cpu=on_cpu)  # type: ignore[arg-type]


def test_cells_of_one_length_share_a_base_and_lengths_add_up(model: ModelFacts) -> None:
    long = replace(CELL, n_ctx=1024)
    sizes = [perplexity.base_bytes(n_vocab=model.n_vocab, n_ctx=n_ctx, chunks=2) for n_ctx in (512, 1024)]
    assert needs(model, CELL, replace(CELL, path="decode", chunks=1), long).disk_bytes == sum(sizes)


def test_a_base_that_is_there_needs_no_more_disk(model: ModelFacts) -> None:
    base_path(CELL).parent.mkdir(parents=True)
    base_path(CELL).touch()
    assert needs(model, CELL).disk_bytes == 0


def test_the_longest_window_takes_most_memory_and_on_a_gpu_only_logits_are_the_hosts(model: ModelFacts) -> None:
    long = replace(CELL, n_ctx=1024)
    found = needs(model, CELL, long)
    assert found.largest == "turbo4 at 1024 tokens"
    on_gpu = needs(model, CELL, long, on_cpu=False).memory_bytes
    assert found.memory_bytes - on_gpu == kv_bytes(model, long.pair, 1024) + model.path.stat().st_size


def test_logits_are_scored_by_batch_so_that_a_long_window_takes_no_more_than_one() -> None:
    at = [perplexity.peak_bytes(n_vocab=151_936, n_ctx=n_ctx) for n_ctx in (2048, 32768)]
    assert at[0] == at[1] < 3e9


def test_too_little_memory_is_refused_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "available_memory_bytes", lambda: 3_000_000_000)
    room.check(room.Needs(disk_bytes=0, memory_bytes=2_900_000_000, largest="q4_0 at 8192 tokens"))
    with pytest.raises(MemoryShortError, match=r"3\.1 GB of memory for q4_0 at 8192 tokens, and 3\.0 GB are free"):
        room.check(room.Needs(disk_bytes=0, memory_bytes=3_100_000_000, largest="q4_0 at 8192 tokens"))


def test_too_little_disk_is_refused_with_both_figures() -> None:
    with pytest.raises(DiskFullError, match=r"needs 1000000\.1 GB, and .* GB free"):
        room.check(room.Needs(disk_bytes=10**15, memory_bytes=0, largest=""))
