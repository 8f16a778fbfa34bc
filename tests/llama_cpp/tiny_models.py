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
