"""Writes small GGUF files that are right in every header field a test looks at, with a few real tensor bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

Setting = int | bool | str | list[int] | list[bool]


def write_gguf(
    path: Path,
    arch: str = "llama",
    settings: Mapping[str, Setting] | None = None,
    *,
    file_type: int = 1,
    without: tuple[str, ...] = (),
) -> Path:
    """Write a model of the given architecture; the setting `attention__key_length` is `llama.attention.key_length`.

    The defaults are those of a small Llama: 4 layers, 512 wide, 8 heads of 64, 2 KV heads, 1000 tokens.
    """
    values: dict[str, Setting] = {
        "block_count": 4,
        "context_length": 4096,
        "embedding_length": 512,
        "attention__head_count": 8,
        "attention__head_count_kv": 2,
        "vocab_size": 1000,
        **(settings or {}),
    }
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_file_type(file_type)
    writer.add_token_list([f"t{index}" for index in range(1000)])
    for name, value in values.items():
        if name in without:
            continue
        _add(writer, f"{arch}.{name.replace('__', '.')}", value)
    writer.add_tensor("token_embd.weight", np.zeros((16, 512), dtype=np.float16))
    writer.add_tensor("output_norm.weight", np.ones(512, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: Setting) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_uint32(key, value)


def truncated(path: Path, keep: int) -> Path:
    """Cut a file to its first `keep` bytes (from the end, if negative)."""
    path.write_bytes(path.read_bytes()[:keep])
    return path


def write_center_file(path: Path, *, arch: str, text_sha256: str) -> Path:
    """Write a file of K's means as far as its header goes."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_type("kv-center")
    writer.add_string("kv_center.architecture", arch)
    writer.add_string("kv_center.text", "t.txt")
    writer.add_string("kv_center.text_sha256", text_sha256)
    writer.add_tensor("blk.0.k_center", np.zeros((1, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
