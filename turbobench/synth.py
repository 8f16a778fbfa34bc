"""Models of random weights in a published shape: for throughput, which depends on the shape and not on the values.

The weights are scaled so that activations stay of order one through all layers. Only raw output of PCG64 is used, which
numpy keeps the same in every version: the same shape, type and seed give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from turbobench import paths
from turbobench.errors import ConfigError
from turbobench.model import RANDOM_WEIGHTS, RANDOM_WEIGHTS_KEY
from turbobench.strict_yaml import suggestion

WeightType = Literal["q4_0", "q8_0", "f16"]
Bytes = npt.NDArray[np.uint8]

WEIGHT_TYPES: dict[WeightType, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
}
_POOL_BLOCKS = 1 << 18  # a few MB, from which the tensors take their values over and over
_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
_SPARE = 1 << 20  # header and tensor list
# Root mean square of the integer codes, uniform over all values of 4 and of 8 bits.
_RMS = {"q4_0": 4.637, "q8_0": 73.9}
_BYTE_TOKENS = 256 + 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The hyperparameters of a dense model, named as in GGUF. `source` says where they are published.

    `tied` models use their embedding for the output; `qkv_bias` and `qk_norm` are what the architecture has.
    `byte_tokens` gives the model a tokenizer of bytes, so that it can be fed text; without it has none.
    """

    arch: Literal["llama", "qwen2", "qwen3", "gemma"]
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    rope_freq_base: float
    norm_eps: float
    source: str
    tied: bool = False
    byte_tokens: bool = False

    @property
    def qkv_bias(self) -> bool:
        return self.arch == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.arch == "qwen3"


# All have heads of one size, a multiple of 64, so that llama.cpp rotates their quantized K/V.
SHAPES: dict[str, Shape] = {
    "qwen3-8b": Shape(
        arch="qwen3",
        n_layer=36,
        n_embd=4096,
        n_head=32,
        n_head_kv=8,
        head_dim=128,
        n_ff=12288,
        n_vocab=151936,
        n_ctx_train=40960,
        rope_freq_base=1e6,
        norm_eps=1e-6,
        source="config.json of Qwen/Qwen3-8B: heads of 128, GQA 4",
    ),
    "qwen3-8b-head256": Shape(
        arch="qwen3",
        n_layer=36,
        n_embd=4096,
        n_head=16,
        n_head_kv=4,
        head_dim=256,
        n_ff=12288,
        n_vocab=151936,
        n_ctx_train=40960,
        rope_freq_base=1e6,
        norm_eps=1e-6,
        source="not published: Qwen3-8B with half as many heads of twice the size, so with as many bytes, GQA 4",
    ),
    "qwen2.5-7b": Shape(
        arch="qwen2",
        n_layer=28,
        n_embd=3584,
        n_head=28,
        n_head_kv=4,
        head_dim=128,
        n_ff=18944,
        n_vocab=152064,
        n_ctx_train=131072,
        rope_freq_base=1e6,
        norm_eps=1e-6,
        source="config.json of Qwen/Qwen2.5-7B: heads of 128, GQA 7",
    ),
    "tinyllama-1.1b": Shape(
        arch="llama",
        n_layer=22,
        n_embd=2048,
        n_head=32,
        n_head_kv=4,
        head_dim=64,
        n_ff=5632,
        n_vocab=32000,
        n_ctx_train=2048,
        rope_freq_base=1e4,
        norm_eps=1e-5,
        source="config.json of TinyLlama/TinyLlama-1.1B-Chat-v1.0: heads of 64, GQA 8",
    ),
    "gemma-2b": Shape(
        arch="gemma",
        n_layer=18,
        n_embd=2048,
        n_head=8,
        n_head_kv=1,
        head_dim=256,
        n_ff=16384,
        n_vocab=256000,
        n_ctx_train=8192,
        rope_freq_base=1e4,
        norm_eps=1e-6,
        source="config.json of google/gemma-2b: heads of 256, GQA 8",
        tied=True,
    ),
}
# A few hundred kilobytes that take text: what a smoke test runs where no real model can be had.
SMOKE_SHAPE = Shape(
    arch="llama",
    n_layer=2,
    n_embd=256,
    n_head=4,
    n_head_kv=2,
    head_dim=64,
    n_ff=512,
    n_vocab=_BYTE_TOKENS,
    n_ctx_train=2048,
    rope_freq_base=1e4,
    norm_eps=1e-5,
    source="not published: as small as a smoke test can be",
    byte_tokens=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One tensor: `shape` is (rows, columns) or (length,); a matrix is multiplied with vectors of `columns` values."""

    name: str
    shape: tuple[int, ...]
    is_norm: bool = False

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) == 2


def find_shape(name: str) -> Shape:
    """Return a shape by name; ConfigError with a suggestion for an unknown one."""
    if name in SHAPES:
        return SHAPES[name]
    raise ConfigError(f"unknown shape {name!r}{suggestion(name, SHAPES)}", f"known shapes: {', '.join(SHAPES)}")


def weights(shape: Shape) -> list[Weight]:
    """Return the tensors of a model in the order of the file, as `load_arch_tensors` of src/models asks for them."""
    width, q, kv = shape.n_embd, shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    found = [Weight(name="token_embd.weight", shape=(shape.n_vocab, width)), _norm("output_norm", width)]
    if not shape.tied:
        found.append(Weight(name="output.weight", shape=(shape.n_vocab, width)))
    for layer in range(shape.n_layer):
        at = f"blk.{layer}"
        found += [
            _norm(f"{at}.attn_norm", width),
            Weight(name=f"{at}.attn_q.weight", shape=(q, width)),
            Weight(name=f"{at}.attn_k.weight", shape=(kv, width)),
            Weight(name=f"{at}.attn_v.weight", shape=(kv, width)),
            Weight(name=f"{at}.attn_output.weight", shape=(width, q)),
            _norm(f"{at}.ffn_norm", width),
            Weight(name=f"{at}.ffn_gate.weight", shape=(shape.n_ff, width)),
            Weight(name=f"{at}.ffn_up.weight", shape=(shape.n_ff, width)),
            Weight(name=f"{at}.ffn_down.weight", shape=(width, shape.n_ff)),
        ]
        if shape.qkv_bias:
            sizes = {"q": q, "k": kv, "v": kv}
            found += [Weight(name=f"{at}.attn_{side}.bias", shape=(size,)) for side, size in sizes.items()]
        if shape.qk_norm:
            found += [_norm(f"{at}.attn_{side}_norm", shape.head_dim) for side in "qk"]
    return found


def n_bytes(shape: Shape, wtype: WeightType) -> int:
    """Return the size of the tensors in the file, padding included."""
    return sum(_padded(_size(weight, wtype)) for weight in weights(shape))


def write_model(name: str, shape: Shape, path: Path, *, wtype: WeightType = "q4_0", seed: int = 0) -> None:
    """Write a GGUF file with random weights, whole or not at all; matrices are of `wtype`, vectors f32.

    Raises DiskFullError with the figures before it starts.
    """
    paths.require_free(path.absolute().parent, n_bytes(shape, wtype) + _SPARE, f"the model {path.name}")
    with paths.atomic_path(path) as temporary:
        writer = _writer(name, shape, wtype, seed)
        for weight in weights(shape):
            kind = WEIGHT_TYPES[wtype][0] if weight.is_matrix else GGMLQuantizationType.F32
            dtype = np.dtype(np.float32)  # the type in the file is `kind`; a shape of values, not of bytes
            writer.add_tensor_info(weight.name, weight.shape, dtype, _size(weight, wtype), raw_dtype=kind)
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with temporary.open("ab") as handle:
            handle.write(bytes(_padded(handle.tell()) - handle.tell()))
            for index, weight in enumerate(weights(shape)):
                _write_weight(handle, weight, wtype, seed=(seed, index))


def _writer(name: str, shape: Shape, wtype: WeightType, seed: int) -> GGUFWriter:
    writer = GGUFWriter(None, shape.arch)
    writer.add_name(f"{name} shape ({RANDOM_WEIGHTS})")
    writer.add_bool(RANDOM_WEIGHTS_KEY, True)
    writer.add_string("turbobench.source", shape.source)
    writer.add_uint32("turbobench.seed", seed)
    writer.add_file_type(WEIGHT_TYPES[wtype][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_freq_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.n_vocab)
    if shape.byte_tokens:
        _add_byte_tokens(writer)
    else:
        writer.add_tokenizer_model("none")
    return writer


def _add_byte_tokens(writer: GGUFWriter) -> None:
    """Add a SentencePiece vocabulary without pieces: all text falls back to its bytes."""
    special = ("<unk>", "<s>", "</s>")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * _BYTE_TOKENS)
    writer.add_token_types([TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256])


def _norm(name: str, length: int) -> Weight:
    return Weight(name=f"{name}.weight", shape=(length,), is_norm=True)


def _size(weight: Weight, wtype: WeightType) -> int:
    kind = WEIGHT_TYPES[wtype][0] if weight.is_matrix else GGMLQuantizationType.F32
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return math.prod(weight.shape) // block * block_bytes


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _write_weight(handle: BinaryIO, weight: Weight, wtype: WeightType, *, seed: tuple[int, int]) -> None:
    size = _size(weight, wtype)
    if weight.is_matrix:
        for part in _repeated(_pool(wtype, size, 1 / math.sqrt(weight.shape[1]), seed), size):
            handle.write(part.data)
    elif weight.is_norm:
        handle.write(np.ones(weight.shape, dtype="<f4").data)
    else:
        handle.write((0.1 * _uniform(weight.shape[0], seed)).astype("<f4").data)
    handle.write(bytes(_padded(size) - size))


def _repeated(pool: Bytes, size: int) -> Iterator[Bytes]:
    """Yield `size` bytes of the pool, from its start again and again."""
    for start in range(0, size, pool.size):
        yield pool[: min(pool.size, size - start)]


def _pool(wtype: WeightType, size: int, rms: float, seed: tuple[int, int]) -> Bytes:
    """Return the bytes of random blocks whose values have the root mean square `rms`, no more than `size` needs."""
    block, block_bytes = GGML_QUANT_SIZES[WEIGHT_TYPES[wtype][0]]
    count = min(_POOL_BLOCKS, size // block_bytes)
    if wtype == "f16":
        return (math.sqrt(3) * rms * _uniform(count * block, seed)).astype("<f2").view(np.uint8)
    codes = block_bytes - 2
    blocks = np.empty((count, block_bytes), dtype=np.uint8)
    blocks[:, :2] = np.array([rms / _RMS[wtype]], dtype="<f2").view(np.uint8)
    blocks[:, 2:] = _raw(count * codes // 8, seed).view(np.uint8).reshape(count, codes)
    return blocks.reshape(-1)


def _uniform(count: int, seed: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return values between -1 and 1."""
    return _raw(count, seed).astype(np.float64) / 2**63 - 1


def _raw(count: int, seed: tuple[int, int]) -> npt.NDArray[np.uint64]:
    return np.asarray(np.random.PCG64(seed).random_raw(count), dtype="<u8")
