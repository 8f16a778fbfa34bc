"""What a cache holds and what attention makes of it, in numpy: blocks of every cache type, and attention in float64."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from turbobench.codec import types as turbo
from turbobench.codec.tables import BLOCK
from turbobench.codec.types import turbo_name
from turbobench.kvtypes import FLOATS, KV_TYPES

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

# The largest magnitude of a code of a 32-value type, and the code that stands for zero where a minimum is stored.
_CODE_MAX = {"q8_0": 127.0, "q5_0": 16.0, "q4_0": 8.0, "iq4_nl": 127.0, "q5_1": 31.0, "q4_1": 15.0}
_WITH_MIN = ("q5_1", "q4_1")


def random_rows(type_name: str, shape: tuple[int, ...], rng: np.random.Generator, *, size: float = 1.0) -> Bytes:
    """Return cache rows of `shape[-1]` values as bytes [*shape[:-1], row bytes]: every code, book and sign occurs.

    Scales are between half of `size` and `size`, which is about the largest magnitude of a value.
    """
    known = KV_TYPES[type_name]
    n_blocks = shape[-1] // known.block
    lead = (*shape[:-1], n_blocks)
    if type_name in FLOATS:
        return encode_floats(type_name, rng.uniform(-size, size, shape).astype(np.float32))
    data = rng.integers(0, 256, (*lead, known.block_bytes), dtype=np.uint8)
    scale = size * rng.uniform(0.5, 1.0, lead)
    if known.is_turbo:
        data[..., :2] = turbo.fields_of(turbo_name(type_name), scale.astype(np.float16).view(np.uint16), rng)
        return data.reshape(*shape[:-1], -1)
    step = scale / _CODE_MAX[type_name] * (2.0 if type_name in _WITH_MIN else 1.0)
    step *= np.where(rng.random(lead) < 0.5, -1.0, 1.0)
    data[..., :2] = _half_bytes(step)
    if type_name in _WITH_MIN:
        data[..., 2:4] = _half_bytes(-step * _CODE_MAX[type_name] / 2)
    return data.reshape(*shape[:-1], -1)


def encode_floats(type_name: str, values: Singles) -> Bytes:
    """Return float32 values as the bytes of a float cache type, rounded to nearest."""
    if type_name == "f32":
        return values.view(np.uint8)
    if type_name == "f16":
        return values.astype(np.float16).view(np.uint8)
    return gguf.quantize(values, GGMLQuantizationType.BF16).view(np.uint8).reshape(*values.shape[:-1], -1)


def decode_rows(type_name: str, data: Bytes) -> Singles:
    """Return the float32 values of cache rows [..., row bytes]."""
    known = KV_TYPES[type_name]
    if type_name == "f32":
        return np.ascontiguousarray(data).view(np.float32)
    if type_name == "f16":
        return np.ascontiguousarray(data).view(np.float16).astype(np.float32)
    blocks = np.ascontiguousarray(data).reshape(-1, known.block_bytes)
    if known.is_turbo:
        values = turbo.dequantize(turbo_name(type_name), blocks)
    else:
        values = gguf.dequantize(blocks, GGMLQuantizationType(known.ggml_id))
    return values.astype(np.float32).reshape(*data.shape[:-1], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """What attention does to its logits: `scale`, ALiBi's `max_bias`, `softcap`, and a sink for each head, or none."""

    scale: float
    max_bias: float = 0.0
    softcap: float = 0.0
    sinks: Singles | None = None


def attention(q: Singles, k: Singles, v: Singles, mask: Singles, how: Softmax) -> Floats:
    """Return attention in float64, [n_seq, n_q, n_head, head size of V].

    `q` is [n_seq, n_q, n_head, D], `k` and `v` [n_seq, n_kv, n_head_kv, D], `mask` [n_seq, n_q, n_kv] is added to the
    logits, times a head's slope under ALiBi.
    """
    n_seq, n_q, n_head, d = q.shape
    n_head_kv = k.shape[2]
    grouped = q.astype(np.float64).reshape(n_seq, n_q, n_head_kv, n_head // n_head_kv, d)
    logits = np.einsum("sqhgd,skhd->shgqk", grouped, k.astype(np.float64), optimize=True) * how.scale
    if how.softcap:
        logits = how.softcap * np.tanh(logits / how.softcap)
    slopes = _slopes(n_head, how.max_bias).reshape(1, n_head_kv, -1, 1, 1)
    logits = logits + slopes * mask.astype(np.float64)[:, None, None]
    peak = logits.max(axis=-1, keepdims=True)
    if how.sinks is not None:
        sinks = how.sinks.astype(np.float64).reshape(1, n_head_kv, -1, 1, 1)
        peak = np.maximum(peak, sinks)
    weights = np.exp(logits - peak)
    total = weights.sum(axis=-1, keepdims=True)
    if how.sinks is not None:
        total = total + np.exp(sinks - peak)
    out = np.einsum("shgqk,skhd->sqhgd", weights / total, v.astype(np.float64), optimize=True)
    return np.asarray(out.reshape(n_seq, n_q, n_head, v.shape[3]))


def _slopes(n_head: int, max_bias: float) -> Floats:
    """ALiBi's slope of each head, as ggml has it."""
    if max_bias == 0.0:
        return np.ones(n_head)
    power = 1 << int(np.floor(np.log2(n_head)))
    first, second = 2.0 ** (-max_bias / power), 2.0 ** (-max_bias / 2 / power)
    heads = np.arange(n_head)
    return np.array([first ** (h + 1) if h < power else second ** (2 * (h - power) + 1) for h in heads])


def _half_bytes(values: Floats) -> Bytes:
    return values.astype("<f2")[..., None].view(np.uint8)


def block_peaks(type_name: str, rows: Bytes) -> Singles:
    """Return for each value of cache rows the largest magnitude in its block of 32 or 64."""
    values = np.abs(decode_rows(type_name, rows))
    width = min(BLOCK, max(32, KV_TYPES[type_name].block))
    peaks = values.reshape(*values.shape[:-1], -1, width).max(axis=-1)
    return np.repeat(peaks, width, axis=-1)
