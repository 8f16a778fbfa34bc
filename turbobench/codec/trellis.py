"""The reference of turbo3t, a trellis code in turbo3's 26 bytes: float32 blocks to bytes and back (see TRELLIS.md).

A value is a symbol of 3 bits. Its table entry is chosen by the window of the last `window` bits of symbols up to its
own, mixed by XOR into an index: a convolutional code, so that 3 stored bits choose among 64 entries, and so that every
value can be read on its own. The encoder finds the best sequence of symbols by the Viterbi algorithm. The symbols
before the first (the start state) are kept in bits of the scale that are worth less there, so no tail has to bite.

Layout, little endian: uint16 of which the low `window` - 3 bits are the start state (the symbol before the first
lowest) and the others the sign-less high bits of an fp16 scale; then three planes of 64 bits, plane k with bit k of
each symbol. The search is integer arithmetic after one float32 scaling, as in `block.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from turbobench.codec.block import Bytes, Floats, relative_error, sanitize
from turbobench.codec.tables import BLOCK, Q_MAX, TABLE_UNIT

TRELLIS_PATH = Path(__file__).with_name("trellis.json")
BITS = 3
"""Bits of a symbol."""
BLOCK_BYTES = 2 + BLOCK * BITS // 8
TARGET_UNIT = 4
"""Values are compared with entries in quarters of an entry's unit."""
TRELLIS_VALUE_MAX = 2.0**14
"""Magnitudes above this are clamped to it: a block that is all this large has nearly the largest scale."""
TRELLIS_VALUE_MIN = 2.0**-17
"""A block in which no magnitude reaches this is stored as zeros: the smallest halves have no bits for its scale."""

_F32 = np.float32
_CHUNK = 512

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trellis:
    """A trellis code: `masks` say which window bits XOR into each bit of the index into `entries`, lowest bit first.

    `entries` int8 [2**len(masks)], 127 the largest magnitude; `spans`: the tries of the scale search, each the RMS
    that it gives the block in units of an entry. One more try puts the block's largest magnitude at 127.
    """

    window: int
    masks: tuple[int, ...]
    entries: npt.NDArray[np.int8]
    spans: tuple[float, ...]

    @property
    def states(self) -> int:
        return 1 << (self.window - BITS)

    @property
    def scale_step(self) -> int:
        """Return the distance between the halves that can be a scale, in units of their last place."""
        return 1 << max(0, self.window - BITS - 1)  # one bit of the start state stands where an fp16 has its sign

    def labels(self) -> npt.NDArray[np.intp]:
        """Return the index into `entries` of every window, [2**window]."""
        windows = np.arange(1 << self.window)
        parities = [np.bitwise_count(windows & mask) & 1 for mask in self.masks]
        return sum((p.astype(np.intp) << bit for bit, p in enumerate(parities)), np.zeros(len(windows), np.intp))


@cache
def trellis() -> Trellis:
    """Return the code of turbo3t."""
    entry = json.loads(TRELLIS_PATH.read_text("utf-8"))
    return Trellis(
        window=entry["window"],
        masks=tuple(int(m, 2) for m in entry["masks"]),
        entries=np.array(entry["entries"], dtype=np.int8),
        spans=tuple(entry["spans"]),
    )


def quantize(code: Trellis, x: npt.ArrayLike) -> Bytes:
    """Quantize blocks [n, 64] of any float32 values to bytes [n, 26]; NaN counts as 0."""
    blocks = sanitize(x, TRELLIS_VALUE_MAX)
    chunks = [_quantize(code, blocks[i : i + _CHUNK]) for i in range(0, len(blocks), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros((0, BLOCK_BYTES), np.uint8)


def dequantize(code: Trellis, data: Bytes) -> Floats:
    """Dequantize bytes [n, 26] to float32 [n, 64]."""
    field = data[:, :2].copy().view("<u2")[:, 0]
    half_bits = (field // code.states * code.scale_step).astype(np.uint16)
    scale = half_bits.view(np.float16).astype(_F32) / _F32(TABLE_UNIT)
    planes = np.unpackbits(data[:, 2:], axis=1, bitorder="little").reshape(-1, BITS, BLOCK).astype(np.int32)
    symbols = planes[:, 0] | planes[:, 1] << 1 | planes[:, 2] << 2
    start = field.astype(np.int32) & (code.states - 1)
    return scale[:, None] * code.entries[code.labels()[windows(code, start, symbols)]].astype(_F32)


def nmse(code: Trellis, x: npt.ArrayLike) -> float:
    """Return the squared error of a round trip of blocks [n, 64] relative to their energy."""
    blocks = np.asarray(x, dtype=_F32)
    return relative_error(dequantize(code, quantize(code, blocks)), blocks)


def factors(code: Trellis, rms: Floats, peak: Floats) -> list[Floats]:
    """Return what each try multiplies blocks of these RMS [n] and largest magnitudes [n] by to make a target."""
    by_rms = [_F32(span * TARGET_UNIT) / rms for span in code.spans]
    return [*by_rms, _F32(127 * TARGET_UNIT) / peak]


def viterbi(code: Trellis, target: Ints) -> tuple[Ints, Ints]:
    """Return symbols [n, m] and start states [n] of the entries nearest to `target` [n, m] in units of 1/TARGET_UNIT.

    Of equal sequences, the one whose last state, then each state before it, is the lowest.
    """
    n, values = target.shape
    entries = code.entries.astype(np.int32)
    labels, before = code.labels(), np.arange(1 << code.window) >> BITS
    # |target/4 - entry|^2 less what does not depend on the entry, halved
    energy = 2 * entries[:, None] ** 2
    cost, came = np.zeros((code.states, n), np.int32), np.empty((values, code.states, n), np.uint8)
    for v in range(values):
        near = energy - entries[:, None] * target[:, v]
        # a window's low bits are the state that it leaves, its highest three tell which state it came from
        reached = (cost[before] + near[labels]).reshape(1 << BITS, code.states, n)
        came[v], cost = reached.argmin(axis=0), reached.min(axis=0)
    state, column = cost.argmin(axis=0).astype(np.int32), np.arange(n)
    symbols = np.empty((n, values), np.int32)
    for v in reversed(range(values)):
        symbols[:, v] = state & ((1 << BITS) - 1)
        state = (came[v, state, column].astype(np.int32) * code.states + state) >> BITS
    return symbols, state


def _quantize(code: Trellis, x: Floats) -> Bytes:
    peak = np.abs(x).max(axis=1)
    empty = peak < _F32(TRELLIS_VALUE_MIN)
    q = np.rint(x * (_F32(Q_MAX) / np.where(empty, _F32(1), peak))[:, None]).astype(np.int32)
    symbols, start, dot, energy = _search(code, np.where(empty[:, None], 1, q))
    scale = peak * (dot.astype(_F32) / energy.astype(_F32)) * _F32(TABLE_UNIT / Q_MAX)
    step = code.scale_step
    largest = 0x7C00 - step
    bits = np.minimum(scale, _F32(65504)).astype(np.float16).view(np.uint16).astype(np.int32)
    bits = np.minimum((bits + step // 2) & -step, largest)
    out = np.empty((len(x), BLOCK_BYTES), np.uint8)
    out[:, :2] = (bits // step * code.states | start).astype("<u2")[:, None].view(np.uint8)
    planes = [np.packbits(symbols >> k & 1, axis=1, bitorder="little") for k in range(BITS)]
    out[:, 2:] = np.concatenate(planes, axis=1)
    out[empty] = 0
    return out


def _search(code: Trellis, q: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Return symbols [n, 64], start states [n], and the sums of q*t and t*t [n] of the best try."""
    n = len(q)
    rms = np.sqrt(np.sum(q.astype(np.int64) ** 2, axis=1).astype(_F32)) / _F32(np.sqrt(BLOCK))
    best, best_start = np.zeros((n, BLOCK), np.int32), np.zeros(n, np.int32)
    best_dot, best_energy = np.zeros(n, np.int32), np.ones(n, np.int32)
    for factor in factors(code, rms, np.abs(q).max(axis=1).astype(_F32)):
        symbols, start = viterbi(code, np.rint(q.astype(_F32) * factor[:, None]).astype(np.int32))
        entries = code.entries[code.labels()[windows(code, start, symbols)]].astype(np.int32)
        dot, energy = np.einsum("ij,ij->i", q, entries), np.einsum("ij,ij->i", entries, entries)
        score, found = dot.astype(_F32), best_dot.astype(_F32)
        better = (dot > 0) & (score * score * best_energy.astype(_F32) > found * found * energy.astype(_F32))
        best[better], best_start[better] = symbols[better], start[better]
        best_dot[better], best_energy[better] = dot[better], energy[better]
    return best, best_start, best_dot, best_energy


def windows(code: Trellis, start: Ints, symbols: Ints) -> Ints:
    """Return the window of every value, [n, m]: each is made of its own and a few earlier symbols only."""
    reach = -(-(code.window - BITS) // BITS)
    earlier = [start >> (BITS * k) & ((1 << BITS) - 1) for k in reversed(range(reach))]
    line = np.concatenate([np.stack(earlier, axis=1), symbols], axis=1)
    window, values = np.zeros_like(symbols), symbols.shape[1]
    for k in range(reach + 1):
        window |= line[:, reach - k : reach - k + values] << (BITS * k)
    return window & ((1 << code.window) - 1)
