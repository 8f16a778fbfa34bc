"""Which base files are compared with, and which are refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sweeps import Replay, write_base
from turbobench import proc
from turbobench.base_logits import Base, BaseLogits, BaseSource, base_path
from turbobench.errors import CorpusError, MeasurementError
from turbobench.kvtypes import KVPair
from turbobench.matrix import Cell
from turbobench.programs import perplexity
from turbobench.programs.perplexity import PplRequest

N_VOCAB, N_CTX = 1000, 512
CELL = Cell(
    kind="quality",
    pair=KVPair("turbo4", "turbo4"),
    test="kld",
    build_id="b",
    device="d",
    model_sha256="m",
    corpus_sha256="t",
    n_ctx=N_CTX,
    chunks=2,
    path="prefill",
    params={"weights": "f16", "n_ubatch": 512},
)
REQUEST = PplRequest(pair=CELL.pair, n_ctx=N_CTX, chunks=2)


@pytest.fixture
def replay(cache: Path) -> Replay:
    assert cache.name == "cache"
    return Replay(n_vocab=N_VOCAB)


@pytest.fixture
def bases(replay: Replay, tmp_path: Path) -> BaseLogits:
    def run(command: proc.Command, on_line: Callable[[str], None]) -> proc.Completed:
        return replay(command, on_line=on_line)

    models = {"f16": tmp_path / "m-f16.gguf", "as-is": tmp_path / "m.gguf"}
    source = BaseSource(program=tmp_path / "p", models=models, corpus=tmp_path / "t", n_vocab=N_VOCAB)
    return BaseLogits(source=source, run=run)


def ensure(bases: BaseLogits, request: PplRequest = REQUEST, cell: Cell = CELL) -> Base:
    return bases.ensure(cell, request, Path("log"), lambda _: None)


def test_it_is_made_once_with_f16_on_the_prompts_path_whoever_asks(bases: BaseLogits, replay: Replay) -> None:
    decode = replace(REQUEST, n_ubatch=1)
    assert ensure(bases, decode).header.chunks == 2
    assert ensure(bases).ppl_by_chunk == (1.0715, 1.0810)
    (made,) = replay.commands
    assert "-ctk f16 -ctv f16" in made
    assert "-ub 512" in made
    assert "m-f16.gguf" in made


def test_fewer_chunks_read_the_same_base_and_more_make_it_again(bases: BaseLogits, replay: Replay) -> None:
    ensure(bases)
    ensure(bases, replace(REQUEST, chunks=1))
    assert len(replay.commands) == 1
    assert ensure(bases, replace(REQUEST, chunks=3)).header.chunks == 3
    assert len(replay.commands) == 2


def test_the_model_as_given_has_a_base_of_its_own(bases: BaseLogits, replay: Replay) -> None:
    given = replace(CELL, params={**CELL.params, "weights": "as-is"})
    assert ensure(bases, cell=given).path != ensure(bases).path
    assert "m.gguf" in replay.commands[0]


@pytest.mark.parametrize(
    "change",
    [{"n_ctx": 256}, {"n_vocab": 999}, {"chunks": 4}, {"first_token": 8}],
    ids=lambda change: next(iter(change)),
)
def test_a_base_of_another_text_n_ctx_or_vocabulary_is_refused(bases: BaseLogits, change: dict[str, int]) -> None:
    ensure(bases)
    write_base(base_path(CELL), **{"n_ctx": N_CTX, "n_vocab": N_VOCAB, "chunks": 2, **change})
    with pytest.raises(MeasurementError, match="of another text, n_ctx or vocabulary") as caught:
        ensure(bases)
    assert "remove" in caught.value.hint


def test_a_truncated_base_and_another_file_are_refused(bases: BaseLogits) -> None:
    ensure(bases)
    path = base_path(CELL)
    with path.open("r+b") as handle:
        handle.truncate(path.stat().st_size - 1)
    with pytest.raises(MeasurementError, match="where its header promises"):
        ensure(bases)
    path.write_bytes(b"_log")
    with pytest.raises(MeasurementError, match="holds no base logits"):
        ensure(bases)


def test_a_base_of_which_nothing_is_known_is_made_again(bases: BaseLogits, replay: Replay) -> None:
    ensure(bases)
    base_path(CELL).with_suffix(".json").write_text(json.dumps({"n_ctx": N_CTX}))
    ensure(bases)
    assert len(replay.commands) == 2


def test_a_text_of_fewer_chunks_than_asked_is_the_texts_fault(
    bases: BaseLogits, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(argv: list[str]) -> tuple[str, str]:
        at = dict(itertools.pairwise(argv))
        write_base(Path(at["--kl-divergence-base"]), n_vocab=N_VOCAB, n_ctx=N_CTX, chunks=2)
        return Replay._adapted("perplexity-base", "f16", "f16", at)

    monkeypatch.setattr(replay, "_output", short)
    with pytest.raises(CorpusError, match="2 chunks of 512 tokens, not 5"):
        ensure(bases, replace(REQUEST, chunks=5))


def test_statistics_against_a_base_of_another_perplexity_are_refused() -> None:
    captured = (Path(__file__).parent / "data" / "perplexity-kld.stdout").read_text(encoding="utf-8")
    stats = perplexity.parse_kld(captured)
    perplexity.check_base_ppl(stats, 1.0810)  # as the run that made the base printed it
    with pytest.raises(MeasurementError, match="another text or model"):
        perplexity.check_base_ppl(stats, 1.11)
