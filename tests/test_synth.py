"""Models of random weights: the right bytes for each shape, the same ones every time, and never half a file."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from turbobench import synth
from turbobench.errors import ConfigError, DiskFullError
from turbobench.gguf_header import read_header
from turbobench.kvtypes import KVPair
from turbobench.model import preflight, read_facts
from turbobench.synth import SHAPES, SMOKE_SHAPE, Shape, WeightType, write_model

TINY = replace(SHAPES["qwen3-8b"], n_layer=2, n_embd=256, n_head=4, n_head_kv=2, n_ff=512, n_vocab=512)


def _written(path: Path, shape: Shape = TINY, wtype: WeightType = "q4_0", seed: int = 0) -> Path:
    write_model("tiny", shape, path, wtype=wtype, seed=seed)
    return path


def test_the_same_command_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    files = [_written(tmp_path / name, seed=seed).read_bytes() for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert files[0] == files[1] != files[2]
    # Written down because records name models by this hash: results of the same shape must stay comparable.
    assert hashlib.sha256(files[0]).hexdigest() == "089dcc878add4fcfa7df4e46e104b6b3c90d4a1d38c6edecb0ed8f56a9bed0b6"


def test_the_file_is_marked_as_random(tmp_path: Path) -> None:
    facts = read_facts(_written(tmp_path / "a.gguf"))
    assert facts.random_weights
    assert "random weights, throughput only" in facts.name
    assert (facts.file_type, facts.n_vocab, facts.head_dim_k, facts.n_layer) == ("MOSTLY_Q4_0", 512, 128, 2)


@pytest.mark.parametrize(
    ("name", "head_dim", "gqa", "params"),
    [
        ("qwen3-8b", 128, 4, 8.19e9),
        ("qwen3-8b-head256", 256, 4, 8.19e9),
        ("qwen2.5-7b", 128, 7, 7.62e9),
        ("tinyllama-1.1b", 64, 8, 1.10e9),
        ("gemma-2b", 256, 8, 2.51e9),
    ],
)
def test_a_shape_has_the_heads_and_parameters_that_are_published(
    name: str, head_dim: int, gqa: int, params: float
) -> None:
    shape = SHAPES[name]
    assert (shape.head_dim, shape.n_head // shape.n_head_kv) == (head_dim, gqa)
    assert sum(int(np.prod(weight.shape)) for weight in synth.weights(shape)) == pytest.approx(params, rel=0.005)
    assert shape.head_dim % 64 == 0


@pytest.mark.parametrize("wtype", synth.WEIGHT_TYPES)
def test_weights_have_the_size_that_keeps_activations_of_order_one(tmp_path: Path, wtype: WeightType) -> None:
    tensors = {t.name: t for t in gguf.GGUFReader(_written(tmp_path / "a.gguf", wtype=wtype)).tensors}
    down = tensors["blk.1.ffn_down.weight"]
    values = gguf.quants.dequantize(down.data, down.tensor_type).astype(np.float64)
    assert np.sqrt(np.mean(values**2)) * np.sqrt(TINY.n_ff) == pytest.approx(1.0, rel=0.05)
    assert np.all(tensors["output_norm.weight"].data == 1)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_can_have_a_turbo_cache(tmp_path: Path, name: str) -> None:
    small = replace(SHAPES[name], n_layer=1, n_embd=256, n_ff=256, n_vocab=256)
    facts = read_facts(_written(tmp_path / "a.gguf", small))
    assert preflight(facts, KVPair("turbo4", "turbo3")) is None


def test_a_tied_model_has_no_output_and_a_qwen2_has_biases() -> None:
    names = {shape: {weight.name for weight in synth.weights(SHAPES[shape])} for shape in SHAPES}
    assert "output.weight" not in names["gemma-2b"]
    assert "blk.0.attn_k.bias" in names["qwen2.5-7b"]
    assert "blk.0.attn_k_norm.weight" in names["qwen3-8b"]


def test_the_smoke_model_takes_text(tmp_path: Path) -> None:
    header = read_header(_written(tmp_path / "a.gguf", SMOKE_SHAPE))
    assert header.metadata["tokenizer.ggml.model"] == "llama"
    assert read_facts(tmp_path / "a.gguf").n_vocab == SMOKE_SHAPE.n_vocab


def test_the_announced_size_is_the_size_of_the_file(tmp_path: Path) -> None:
    path = _written(tmp_path / "a.gguf")
    assert 0 < path.stat().st_size - synth.n_bytes(TINY, "q4_0") < 1 << 20


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match=r"big\.gguf needs 4\.6 GB"):
        write_model("qwen3-8b", SHAPES["qwen3-8b"], tmp_path / "big.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_file_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synth, "_pool", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _written(tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_shape_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'qwen3-8b'"):
        synth.find_shape("qwen3-8B")
