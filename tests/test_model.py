"""Model facts, the size of the KV cache, and who is refused before anything runs."""

from pathlib import Path

import pytest

from tests.gguf_files import Setting, truncated, write_gguf
from turbobench.errors import ModelError
from turbobench.kvtypes import KVPair
from turbobench.model import ModelFacts, kv_bytes, preflight, read_facts

F16, Q8, TURBO4 = (KVPair.parse(name) for name in ("f16", "q8_0", "turbo4"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOBENCH_CACHE", str(tmp_path / "cache"))


def _model(tmp_path: Path, arch: str = "llama", **settings: Setting) -> ModelFacts:
    return read_facts(write_gguf(tmp_path / "tiny.gguf", arch, settings))


def test_the_facts_of_a_plain_model(tmp_path: Path) -> None:
    facts = _model(tmp_path)
    assert (facts.arch, facts.name, facts.n_layer, facts.n_ctx_train) == ("llama", "tiny", 4, 4096)
    assert (facts.n_head, facts.n_head_kv, facts.head_dim_k, facts.head_dim_v) == (8, (2, 2, 2, 2), 64, 64)
    assert (facts.n_vocab, facts.n_params, facts.file_type) == (1000, 16 * 512 + 512, "MOSTLY_F16")
    assert facts.has_full_precision
    assert not facts.is_mla
    assert preflight(facts, TURBO4) is None


def test_quantized_weights_are_known_as_such(tmp_path: Path) -> None:
    assert not read_facts(write_gguf(tmp_path / "tiny.gguf", file_type=3)).has_full_precision


def test_the_vocabulary_is_counted_where_its_size_is_not_stated(tmp_path: Path) -> None:
    assert read_facts(write_gguf(tmp_path / "tiny.gguf", without=("vocab_size",))).n_vocab == 1000


def test_kv_bytes_of_smollm2_are_what_llama_cpp_prints(tmp_path: Path) -> None:
    facts = _model(
        tmp_path,
        block_count=30,
        embedding_length=576,
        attention__head_count=9,
        attention__head_count_kv=3,
    )
    # llama_kv_cache: size = 45.00 MiB (2048 cells, 30 layers), K (f16): 22.50 MiB, V (f16): 22.50 MiB
    assert kv_bytes(facts, F16, 2048) == 45 * 2**20
    assert kv_bytes(facts, Q8, 2048) == 45 * 2**20 * 34 // 64
    assert kv_bytes(facts, TURBO4, 2048) == 45 * 2**20 * 34 // 128


def test_the_context_is_rounded_up_to_256(tmp_path: Path) -> None:
    facts = _model(tmp_path)
    assert kv_bytes(facts, F16, 1) == kv_bytes(facts, F16, 256) == 4 * 256 * (2 * 64) * 2 * 2
    assert kv_bytes(facts, F16, 257) == kv_bytes(facts, F16, 512)


def test_k_and_v_are_counted_by_their_own_types(tmp_path: Path) -> None:
    facts = _model(tmp_path, attention__key_length=128, attention__value_length=64)
    assert kv_bytes(facts, KVPair("q8_0", "turbo4"), 256) == 4 * 256 * (2 * 128 * 34 // 32 + 2 * 64 * 34 // 64)


def test_layers_without_kv_heads_cost_nothing(tmp_path: Path) -> None:
    facts = _model(tmp_path, attention__head_count_kv=[0, 2, 0, 1])
    assert facts.kv_layers == (False, True, False, True)
    assert kv_bytes(facts, F16, 256) == 256 * (2 + 1) * 64 * 2 * 2


def test_sliding_window_layers_hold_the_window_and_a_micro_batch(tmp_path: Path) -> None:
    facts = _model(tmp_path, "gemma3", block_count=6, attention__sliding_window=512)
    assert facts.swa_layers == (True, True, True, True, True, False)
    row = 2 * 64 * 2 * 2
    assert kv_bytes(facts, F16, 8192, n_ubatch=512) == (5 * 1024 + 8192) * row
    assert kv_bytes(facts, F16, 256, n_ubatch=512) == 6 * 256 * row


def test_a_window_pattern_in_the_file_wins(tmp_path: Path) -> None:
    pattern = [True, False, True, False]
    facts = _model(tmp_path, "gemma4", attention__sliding_window=512, attention__sliding_window_pattern=pattern)
    assert facts.swa_layers == tuple(pattern)


def test_a_window_that_llama_cpp_ignores_is_ignored(tmp_path: Path) -> None:
    assert _model(tmp_path, "llama", attention__sliding_window=4096).swa_layers == (False,) * 4


def test_recurrent_layers_of_a_hybrid_cost_nothing(tmp_path: Path) -> None:
    assert _model(tmp_path, "qwen3next", full_attention_interval=4).kv_layers == (False, False, False, True)


def test_layers_that_only_draft_are_left_out(tmp_path: Path) -> None:
    assert _model(tmp_path, "qwen3", block_count=5, nextn_predict_layers=1).n_layer == 4


def test_a_head_size_of_80_is_refused_for_turbo_and_for_every_block_of_32(tmp_path: Path) -> None:
    facts = _model(tmp_path, attention__key_length=80, attention__value_length=80)
    reason = preflight(facts, TURBO4)
    assert reason is not None
    assert "turbo4 needs a head size that is a multiple of 64; the K heads here have 80" in reason
    assert preflight(facts, Q8) is not None
    assert preflight(facts, F16) is None


def test_only_the_side_that_is_turbo_needs_heads_of_64(tmp_path: Path) -> None:
    facts = _model(tmp_path, attention__key_length=96, attention__value_length=128)
    assert preflight(facts, KVPair("q8_0", "turbo4")) is None
    assert "K heads" in (preflight(facts, KVPair("turbo4", "q8_0")) or "")


def test_the_heads_of_window_layers_count_too(tmp_path: Path) -> None:
    facts = _model(
        tmp_path,
        "gemma4",
        attention__sliding_window=512,
        attention__sliding_window_pattern=[True, False, True, False],
        attention__key_length_swa=96,
    )
    assert "96" in (preflight(facts, TURBO4) or "")


MLA: dict[str, Setting] = {
    "attention__head_count_kv": 1,
    "attention__key_length": 576,
    "attention__value_length": 512,
    "attention__key_length_mla": 192,
    "attention__value_length_mla": 128,
    "attention__kv_lora_rank": 512,
}


def test_mla_is_refused_for_turbo_and_keeps_no_v(tmp_path: Path) -> None:
    facts = _model(tmp_path, "deepseek2", **MLA)
    assert facts.is_mla
    assert "MLA" in (preflight(facts, TURBO4) or "")
    assert "same type" in (preflight(facts, KVPair("q8_0", "f16")) or "")
    assert preflight(facts, Q8) is None
    assert kv_bytes(facts, F16, 256) == 4 * 256 * 576 * 2


def test_an_architecture_whose_indexer_reuses_the_k_type_is_refused_for_turbo(tmp_path: Path) -> None:
    facts = _model(tmp_path, "qwen4exp", attention__indexer__key_length=128, attention__indexer__head_count=4)
    assert "indexer" in (preflight(facts, TURBO4) or "")
    assert preflight(facts, Q8) is None


def test_grok_is_refused_for_a_quantized_v(tmp_path: Path) -> None:
    facts = _model(tmp_path, "grok")
    assert "flash attention" in (preflight(facts, Q8) or "")
    assert preflight(facts, KVPair("q8_0", "f16")) is None


def test_a_model_without_a_kv_cache_has_nothing_to_measure(tmp_path: Path) -> None:
    assert "no KV cache" in (preflight(_model(tmp_path, "mamba", attention__head_count_kv=0), F16) or "")


def _refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_facts(path)
    assert "\n" not in caught.value.what
    assert caught.value.hint
    assert str(path) in caught.value.what
    return caught.value


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    assert "there is no model file" in _refusal(tmp_path / "none.gguf").what


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is a folder" in _refusal(tmp_path).what


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a GGUF file"),
        (b"GGUF", "is truncated"),
        (b"GGUF\x00\x00\x00\x03", "is GGUF version 50331648"),
        (b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "is truncated"),
    ],
)
def test_a_file_that_is_no_whole_gguf_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert reason in _refusal(path).what


@pytest.mark.parametrize("keep", [8, 12, 24, 100, 3000, -2048, -1])
def test_a_model_cut_off_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    assert "is truncated" in _refusal(truncated(write_gguf(tmp_path / "cut.gguf"), keep)).what


def test_metadata_of_an_unknown_kind_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    key = b"general.name"
    counts = (0).to_bytes(8, "little") + (1).to_bytes(8, "little")
    entry = len(key).to_bytes(8, "little") + key + (99).to_bytes(4, "little")
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + counts + entry)
    assert "damaged" in _refusal(path).what


def test_a_gguf_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    assert "block_count" in _refusal(write_gguf(tmp_path / "clip.gguf", "clip", {"block_count": "many"})).what


def test_too_few_heads_listed_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "bad.gguf", settings={"attention__head_count_kv": [2, 2]})
    assert "2 entries for 4 layers" in _refusal(path).what


def test_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "part.gguf", "split", {"count": 3})
    assert "one of 3 parts" in _refusal(path).what


def test_a_changed_file_gets_a_new_hash(tmp_path: Path) -> None:
    before = _model(tmp_path).sha256
    assert _model(tmp_path).sha256 == before
    assert _model(tmp_path, context_length=8192).sha256 != before
