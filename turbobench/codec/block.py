"""The reference of the block format: float32 blocks to bytes and back, the same bytes as the C reference.

All of the search is integer arithmetic after one float32 scaling, and scores are compared by products of float32, so
numpy, scalar C and every SIMD path agree to the bit (see `ggml_kernels/common/turbo-blocks.h` for the layout).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from turbobench.codec.tables import BLOCK, BOOKS, Q_MAX, SCALE_MAX, TABLE_UNIT, VALUE_MAX, VALUE_MIN, Codec

_F32 = np.float32
_CHUNK = 4096

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def quantize(codec: Codec, x: npt.ArrayLike) -> Bytes:
    """Quantize blocks [n, 64] of any float32 values to bytes [n, codec.block_bytes].

    NaN counts as 0; magnitudes beyond VALUE_MAX, infinities included, as VALUE_MAX; a block below VALUE_MIN is zeros.
    """
    blocks = sanitize(x)
    chunks = [_quantize(codec, blocks[i : i + _CHUNK]) for i in range(0, len(blocks), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, codec.block_bytes), np.uint8)


def dequantize(codec: Codec, data: Bytes) -> Floats:
    """Dequantize bytes [n, codec.block_bytes] to float32 [n, 64]."""
    half_bits = data[:, :2].copy().view("<u2")[:, 0]
    scale = half_bits.view(np.float16).astype(_F32) / _F32(TABLE_UNIT)
    entries = np.take_along_axis(codec.books[half_bits & (BOOKS - 1)], _unpack(codec, data), axis=1)
    return scale[:, None] * entries.astype(_F32)


def nmse(codec: Codec, x: npt.ArrayLike) -> float:
    """Return the squared error of a round trip of blocks [n, 64] relative to their energy."""
    blocks = np.asarray(x, dtype=_F32)
    return relative_error(dequantize(codec, quantize(codec, blocks)), blocks)


def relative_error(made: Floats, blocks: Floats) -> float:
    """Return the squared error of what was made of blocks [n, 64] relative to their energy."""
    error = made.astype(np.float64) - blocks
    return float(np.sum(error**2) / np.sum(blocks.astype(np.float64) ** 2))


def sanitize(x: npt.ArrayLike, value_max: float = VALUE_MAX) -> Floats:
    """Return blocks [n, 64] as float32 with NaN as 0 and magnitudes of at most `value_max`; refuse any other shape."""
    blocks = np.asarray(x, dtype=_F32)
    if blocks.ndim != 2 or blocks.shape[1] != BLOCK:
        raise ValueError(f"blocks must have shape [n, {BLOCK}], not {blocks.shape}")
    return np.clip(np.where(np.isnan(blocks), _F32(0), blocks), _F32(-value_max), _F32(value_max))


def _quantize(codec: Codec, x: Floats) -> Bytes:
    high, low = x.max(axis=1), x.min(axis=1)
    mirrored = ~(high >= -low)
    peak = np.where(mirrored, -low, high)
    empty = peak < _F32(VALUE_MIN)
    factor = _F32(Q_MAX) / np.where(empty, _F32(1), peak)
    q = np.rint(x * np.where(mirrored, -factor, factor)[:, None]).astype(np.int16)
    codes, winner, dot, energy = _search(codec, q)
    flip = np.array([c.flip for c in codec.search])[winner]
    book = np.array([c.book for c in codec.search], np.int32)[winner]
    scale = peak * (dot.astype(_F32) / energy.astype(_F32)) * _F32(TABLE_UNIT / Q_MAX)
    half_bits = _half_with_book(scale, book) | np.where(flip ^ mirrored, 0x8000, 0)
    out = np.empty((len(x), codec.block_bytes), np.uint8)
    out[:, :2] = half_bits.astype("<u2")[:, None].view(np.uint8)
    out[:, 2:] = _pack(codec, codes)
    out[empty] = 0
    return out


def _search(
    codec: Codec, q: npt.NDArray[np.int16]
) -> tuple[Bytes, npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return codes [n, 64], index of the winning candidate [n], and its sums of q*t and t*t [n]."""
    n = len(q)
    best_codes, winner = np.zeros((n, BLOCK), np.uint8), np.zeros(n, np.int64)
    best_dot, best_energy = np.zeros(n, np.int32), np.ones(n, np.int32)
    for index, candidate in enumerate(codec.search):
        value = -q if candidate.flip else q
        codes = np.zeros(q.shape, np.uint8)
        for bound in codec.thresholds(candidate):
            codes += value > bound
        entries = codec.books[candidate.book].astype(np.int32)[codes]
        dot = np.einsum("ij,ij->i", value.astype(np.int32), entries)
        energy = np.einsum("ij,ij->i", entries, entries)
        # dot^2 / energy is what a least-squares scale removes from the error; compared without a division.
        score, best = dot.astype(_F32), best_dot.astype(_F32)
        better = (dot > 0) & (score * score * best_energy.astype(_F32) > best * best * energy.astype(_F32))
        best_codes[better], winner[better] = codes[better], index
        best_dot[better], best_energy[better] = dot[better], energy[better]
    return best_codes, winner, best_dot, best_energy


def _half_with_book(scale: Floats, book: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Round positive scales to the nearest half whose low bits are the book."""
    bits = np.minimum(scale, _F32(SCALE_MAX)).astype(np.float16).view(np.uint16).astype(np.int32)
    bits = ((bits - book + BOOKS // 2) & -BOOKS) + book
    return np.where(bits > 0x7BFF, bits - BOOKS, bits)


def _pack(codec: Codec, codes: Bytes) -> Bytes:
    if codec.bits == 4:
        return (codes[:, :32] | codes[:, 32:] << 4).astype(np.uint8)
    group = codes.reshape(-1, 4, 16)
    low = np.zeros((len(codes), 16), np.uint8)
    high = np.zeros((len(codes), 8), np.uint8)
    for c in range(4):
        low |= (group[:, c] & 3) << (2 * c)
        for half in range(2):
            high |= (group[:, c, 8 * half : 8 * half + 8] >> 2) << _high_bit(c, half)
    return np.concatenate([low, high], axis=1)


def _unpack(codec: Codec, data: Bytes) -> npt.NDArray[np.intp]:
    if codec.bits == 4:
        return np.concatenate([data[:, 2:] & 15, data[:, 2:] >> 4], axis=1).astype(np.intp)
    low, high = data[:, 2:18], data[:, 18:26]
    groups = [
        (low >> (2 * c) & 3) | np.concatenate([(high >> _high_bit(c, half) & 1) << 2 for half in range(2)], axis=1)
        for c in range(4)
    ]
    return np.concatenate(groups, axis=1).astype(np.intp)


def _high_bit(group: int, half: int) -> int:
    """Return which bit of a high-plane byte belongs to 16-value group 0..3 and 8-value half 0..1."""
    return 4 * (group >> 1) + 2 * half + (group & 1)
