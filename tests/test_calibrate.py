"""Calibration: what is measured and where it goes, and what is refused before anything is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_files import write_gguf
from turbobench.build import Build
from turbobench.calibrate import calibrate, plan
from turbobench.corpora import Corpus
from turbobench.errors import AccessError, CorpusError, ModelError
from turbobench.model import ModelFacts, read_facts


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    return read_facts(write_gguf(tmp_path / "m.gguf"))


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    path = tmp_path / "t.txt"
    path.write_text("word " * 100)
    return Corpus(name="t", path=path, sha256="0" * 64)


def test_the_whole_trained_context_is_covered_beside_the_model(model: ModelFacts, text: Corpus) -> None:
    wanted = plan(model, text, n_ctx=None, out=None, force=False)
    assert (wanted.n_ctx, wanted.chunks) == (4096, 2)
    assert wanted.out == model.path.with_name("m.kv-center.gguf")


def test_a_long_context_is_one_chunk(model: ModelFacts, text: Corpus) -> None:
    wanted = plan(replace(model, n_ctx_train=1 << 17), text, n_ctx=1 << 15, out=None, force=False)
    assert (wanted.n_ctx, wanted.chunks) == (1 << 15, 1)


def test_a_file_that_is_there_is_replaced_only_by_force(model: ModelFacts, text: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "c.gguf"
    out.write_text("mine")
    with pytest.raises(AccessError, match=r"c\.gguf exists"):
        plan(model, text, n_ctx=None, out=out, force=False)
    assert plan(model, text, n_ctx=None, out=out, force=True).out == out


def test_positions_beyond_training_are_refused(model: ModelFacts, text: Corpus) -> None:
    with pytest.raises(ModelError, match="trained on 4096 positions, --n-ctx 8192 is beyond them"):
        plan(model, text, n_ctx=8192, out=None, force=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_mla": True}, "latent attention"),
        ({"has_indexer": True}, "indexer"),
        ({"random_weights": True}, "random weights"),
        ({"kv_layers": (False,) * 4}, "no attention layers"),
    ],
)
def test_models_without_plain_keys_are_refused(
    model: ModelFacts, text: Corpus, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        plan(replace(model, **change), text, n_ctx=None, out=None, force=False)  # type: ignore[arg-type]


def test_a_text_that_is_too_short_leaves_no_file(
    model: ModelFacts, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURBOBENCH_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "llama-kv-center"
    program.write_text("#!/bin/sh\necho '0.00.1 E main: the text has 100 tokens, 4096 are needed' >&2; exit 1\n")
    program.chmod(0o755)
    built = Build(
        id="x",
        backend="cpu",
        tree_id="x",
        base_commit="x",
        bin_dir=tmp_path,
        cmake_flags=(),
        compiler="x",
        cpu="x",
        notes=(),
        built_at="x",
    )
    wanted = plan(model, text, n_ctx=None, out=None, force=False)
    with pytest.raises(CorpusError, match="gives 100 tokens where 4096 are needed"):
        calibrate(wanted, built)
    assert not wanted.out.exists()
