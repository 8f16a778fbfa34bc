"""Trains the codebooks together with the scale search: Lloyd's algorithm on Gaussian blocks of 64.

A block is coded by the best of all candidates (book, mirrored or not, span), with the scale that least squares gives;
then every entry moves to the mean of what it stands for. Three stages: all spans of a grid, to find the books; the 32
candidates that a greedy choice keeps, whose spans are trained along with the books; the spans again, after the books
are rounded to int8. Deterministic; takes some minutes. What was tried and lost is in NOTES.md.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from turbobench.codec.tables import BLOCK, BOOKS, CODEC_NAMES, Q_MAX, CodecName

SEED = 64
TRAIN_BLOCKS = 8192
SEARCH = 32
"""Candidates kept: a multiple of 4 for the SIMD encoders, and one per lane of a GPU warp."""
GRID_STAGE, JOINT_STAGE, SPAN_STAGE = 50, 60, 15
"""Iterations of the three stages."""
_SPANS = tuple(np.linspace(0.66, 1.26, 21))
_BIN = 16
"""Magnitudes are looked up in bins of this many search units, 1/1000 of the block's largest."""

_START: dict[CodecName, tuple[float, ...]] = {
    "turbo3": (-0.820, -0.504, -0.268, -0.063, 0.135, 0.346, 0.602, 1),
    "turbo4": (
        -0.930, -0.711, -0.551, -0.421, -0.309, -0.208, -0.113, -0.021,
        0.070, 0.163, 0.259, 0.361, 0.472, 0.599, 0.758, 1,
    ),
}  # fmt: skip
"""The one signed table of 64-value blocks that the eight books start from."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """A candidate with a span that is a fraction of the block's largest magnitude."""

    book: int
    flip: bool
    span: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Blocks whose largest magnitude is +1: values [n, 64], their bins, and weights [n] (peak squared)."""

    value: npt.NDArray[np.float32]
    bins: npt.NDArray[np.intp]
    weight: Floats


def train(name: CodecName) -> tuple[npt.NDArray[np.int8], list[_Try]]:
    """Return the books [8, levels] and the search of a type."""
    blocks = _gaussian_blocks()
    books = _start_books(name)
    tries = [_Try(book=b, flip=f, span=s) for b in range(BOOKS) for f in (False, True) for s in _SPANS]
    for _ in range(GRID_STAGE):
        books, _ = _improve(blocks, books, tries)
    tries = _greedy(blocks, books, tries)
    for _ in range(JOINT_STAGE):
        books, tries = _improve(blocks, books, tries)
    books = np.rint(books * 127) / 127
    for _ in range(SPAN_STAGE):
        _, tries = _improve(blocks, books, tries)
    return np.rint(books * 127).astype(np.int8), sorted(tries, key=lambda t: (t.book, t.flip, t.span))


def codebooks_json() -> str:
    """Train every type and return the text of `codebooks.json`."""
    parts = []
    for name in CODEC_NAMES:
        sys.stderr.write(f"training {name}\n")
        books, tries = train(name)
        rows = ",\n".join(f"      {json.dumps(row)}" for row in books.tolist())
        search = ",\n".join(f"      {json.dumps([t.book, int(t.flip), round(t.span * Q_MAX)])}" for t in tries)
        parts.append(f'  "{name}": {{\n    "books": [\n{rows}\n    ],\n    "search": [\n{search}\n    ]\n  }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _gaussian_blocks() -> _Blocks:
    x = np.random.default_rng(SEED).standard_normal((TRAIN_BLOCKS, BLOCK))
    peak = x[np.arange(len(x)), np.abs(x).argmax(axis=1)]
    value = (x / peak[:, None]).astype(np.float32)
    return _Blocks(value=value, bins=_bins(value), weight=peak**2)


def _bins(value: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    return np.rint((value + 1) * (Q_MAX // _BIN)).astype(np.intp)


def _bin_values() -> Floats:
    return np.arange(2 * (Q_MAX // _BIN) + 1) / (Q_MAX // _BIN) - 1


def _start_books(name: CodecName) -> Floats:
    """Return eight variations of the one table: narrower or wider, leaning to one side or the other."""
    start = np.array(_START[name])
    books = []
    for b in range(BOOKS):
        lean = b / (BOOKS - 1) - 0.5
        bend = (-1) ** (b + 1) * 0.15 * lean * np.where(start == 1, 0, 1 - start**2)
        books.append(start + bend + 0.1 * lean * start * (1 - np.abs(start)))
    return np.array(books)


def _codes(books: Floats, t: _Try, value: Floats) -> npt.NDArray[np.intp]:
    bounds = (books[t.book][1:] + books[t.book][:-1]) / 2 * t.span
    return np.searchsorted(bounds, -value if t.flip else value)


def _gains(blocks: _Blocks, books: Floats, tries: list[_Try]) -> tuple[npt.NDArray[np.float32], Floats]:
    """Return what each try takes off the squared error, and its scale, both [tries, n]."""
    gains = np.empty((len(tries), len(blocks.value)), np.float32)
    scales = np.empty(gains.shape)
    for row, t in enumerate(tries):
        table = books[t.book][_codes(books, t, _bin_values())].astype(np.float32)
        entry = (-table if t.flip else table)[blocks.bins]
        dot = np.einsum("ij,ij->i", blocks.value, entry)
        energy = np.einsum("ij,ij->i", entry, entry)
        gains[row] = np.where(dot > 0, dot, 0) ** 2 / energy * blocks.weight
        scales[row] = dot / energy
    return gains, scales


def _improve(blocks: _Blocks, books: Floats, tries: list[_Try]) -> tuple[Floats, list[_Try]]:
    """Do one step of Lloyd's algorithm: entries to their means, spans to the mean scale of the blocks they won."""
    gains, scales = _gains(blocks, books, tries)
    winner = gains.argmax(axis=0)
    moment, mass = np.zeros(books.shape), np.zeros(books.shape)
    moved = []
    for row, t in enumerate(tries):
        won = np.flatnonzero(winner == row)
        if not len(won):
            moved.append(t)
            continue
        scale = scales[row, won]
        value = blocks.value[won].astype(np.float64) * (-1 if t.flip else 1)
        codes = _codes(books, _Try(book=t.book, flip=False, span=t.span), value)
        weight = blocks.weight[won] * scale
        levels = books.shape[1]
        moment[t.book] += np.bincount(codes.ravel(), (weight[:, None] * value).ravel(), levels)
        mass[t.book] += np.bincount(codes.ravel(), np.repeat(weight * scale, BLOCK), levels)
        moved.append(_Try(book=t.book, flip=t.flip, span=float(np.average(scale, weights=blocks.weight[won]))))
    new = np.where(mass > 0, moment / np.maximum(mass, 1e-30), books)
    return new / np.abs(new).max(axis=1, keepdims=True), moved


def _greedy(blocks: _Blocks, books: Floats, tries: list[_Try]) -> list[_Try]:
    """Keep the SEARCH tries that together take the most off the error, chosen one at a time."""
    gains, _ = _gains(blocks, books, tries)
    best = np.zeros(gains.shape[1], np.float32)
    kept = []
    for _ in range(SEARCH):
        row = int(np.maximum(gains, best).sum(axis=1, dtype=np.float64).argmax())
        best = np.maximum(best, gains[row])
        kept.append(tries[row])
    return kept
