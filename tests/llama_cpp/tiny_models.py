"""Models of a few thousand random weights that llama.cpp really loads, in shapes that turbo cannot serve."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_EMBEDDING, _LAYERS, _VOCAB, _FFN = 128, 2, 64, 64


def _writer(path: Path, arch: str) -> tuple[gguf.GGUFWriter, np.random.Generator]:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(_VOCAB)
    writer.add_block_count(_LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_feed_forward_length(_FFN)
    writer.add_layer_norm_rms_eps(1e-5)
    return writer, np.random.default_rng(0)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(writer: gguf.GGUFWriter, rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        scale = 1.0 if name.endswith("norm.weight") else 0.05
        writer.add_tensor(name, (scale * rng.standard_normal(shape)).astype(np.float32))


def llama(path: Path, *, head_dim: int) -> Path:
    """Write a Llama with 2 heads of `head_dim` values."""
    writer, rng = _writer(path, "llama")
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_VOCAB, _EMBEDDING),
        "output_norm.weight": (_EMBEDDING,),
        "output.weight": (_VOCAB, _EMBEDDING),
    }
    for i in range(_LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.attn_q.weight": (2 * head_dim, _EMBEDDING),
            f"blk.{i}.attn_k.weight": (2 * head_dim, _EMBEDDING),
            f"blk.{i}.attn_v.weight": (2 * head_dim, _EMBEDDING),
            f"blk.{i}.attn_output.weight": (_EMBEDDING, 2 * head_dim),
            f"blk.{i}.ffn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.ffn_gate.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_up.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_down.weight": (_EMBEDDING, _FFN),
        }
    _tensors(writer, rng, shapes)
    _finish(writer)
    return path


def deepseek2(path: Path) -> Path:
    """Write a DeepSeek-V2 with multi-head latent attention: 2 heads, latent rank 64, 64 rotary values."""
    rank, rope, nope, value = 64, 64, 64, 64
    writer, rng = _writer(path, "deepseek2")
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_q_lora_rank(rank)
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(nope + rope)
    writer.add_value_length_mla(value)
    writer.add_rope_dimension_count(rope)
    writer.add_leading_dense_block_count(_LAYERS)
    writer.add_expert_count(2)
    writer.add_expert_used_count(1)
    writer.add_expert_feed_forward_length(_FFN)
    writer.add_expert_shared_count(1)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_VOCAB, _EMBEDDING),
        "output_norm.weight": (_EMBEDDING,),
        "output.weight": (_VOCAB, _EMBEDDING),
    }
    for i in range(_LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.attn_q_a.weight": (rank, _EMBEDDING),
            f"blk.{i}.attn_q_a_norm.weight": (rank,),
            f"blk.{i}.attn_q_b.weight": (2 * (nope + rope), rank),
            f"blk.{i}.attn_kv_a_mqa.weight": (rank + rope, _EMBEDDING),
            f"blk.{i}.attn_kv_a_norm.weight": (rank,),
            f"blk.{i}.attn_k_b.weight": (2, rank, nope),
            f"blk.{i}.attn_v_b.weight": (2, value, rank),
            f"blk.{i}.attn_output.weight": (_EMBEDDING, 2 * value),
            f"blk.{i}.ffn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.ffn_gate.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_up.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_down.weight": (_EMBEDDING, _FFN),
        }
    _tensors(writer, rng, shapes)
    _finish(writer)
    return path


def gemma(path: Path, *, version: int, n_swa: int = 64, seed: int = 0) -> Path:
    """Write a Gemma 2, which caps attention logits, or a Gemma 3: 6 layers, some of a sliding window of `n_swa`.

    Its tokens are bytes, so that it can be fed text; two query heads share a KV head of 64.
    """
    head_dim, n_vocab, n_layer = 64, 259, 6
    writer = gguf.GGUFWriter(path, f"gemma{version}")
    rng = np.random.default_rng(seed)
    writer.add_name("tiny")
    _add_byte_tokens(writer)
    writer.add_block_count(n_layer)
    writer.add_context_length(2048)
    writer.add_embedding_length(_EMBEDDING)
    writer.add_feed_forward_length(_FFN)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(n_swa)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_vocab, _EMBEDDING),
        "output_norm.weight": (_EMBEDDING,),
    }
    for i in range(n_layer):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.attn_q.weight": (2 * head_dim, _EMBEDDING),
            f"blk.{i}.attn_k.weight": (head_dim, _EMBEDDING),
            f"blk.{i}.attn_v.weight": (head_dim, _EMBEDDING),
            f"blk.{i}.attn_output.weight": (_EMBEDDING, 2 * head_dim),
            f"blk.{i}.post_attention_norm.weight": (_EMBEDDING,),
            f"blk.{i}.ffn_norm.weight": (_EMBEDDING,),
            f"blk.{i}.ffn_gate.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_up.weight": (_FFN, _EMBEDDING),
            f"blk.{i}.ffn_down.weight": (_EMBEDDING, _FFN),
            f"blk.{i}.post_ffw_norm.weight": (_EMBEDDING,),
        }
        if version == 3:
            shapes |= {f"blk.{i}.attn_{which}_norm.weight": (head_dim,) for which in ("q", "k")}
    _tensors(writer, rng, shapes)
    _finish(writer)
    return path


def _add_byte_tokens(writer: gguf.GGUFWriter) -> None:
    special = ("<unk>", "<s>", "</s>")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * 259)
    writer.add_token_types([gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256])
