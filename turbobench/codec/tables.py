"""The codebooks and the scale search of turbo3 and turbo4, read from `codebooks.json`, which `train.py` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

CODEBOOKS_PATH = Path(__file__).with_name("codebooks.json")
BLOCK = 64
"""Values per block."""
BOOKS = 8
"""Codebooks of a type; the low bits of the block's fp16 scale say which one the block uses."""
Q_MAX = 16384
"""A block is searched as int16 with its largest magnitude at this value, so that every sum is an exact int32."""
TABLE_UNIT = 128
"""A table entry is a fraction of this: value = scale * entry / TABLE_UNIT."""
SCALE_MAX = 65504
"""The largest finite half."""
VALUE_MAX = SCALE_MAX * 127 / TABLE_UNIT
"""Magnitudes above this (infinities too) are clamped to it: the largest value that a block can hold."""
VALUE_MIN = 2.0**-20
"""A block in which no magnitude reaches this is stored as zeros: its scale would vanish among the smallest halves."""

CodecName = Literal["turbo3", "turbo4"]
CODEC_NAMES: tuple[CodecName, ...] = ("turbo3", "turbo4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One try of the scale search: a book, its mirror image or not, and the span (Q_MAX units) put at entry 127."""

    book: int
    flip: bool
    span: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """A turbo type: `books` int8 [BOOKS, levels] ascending with 127 last; `search` in the order in which ties fall."""

    name: CodecName
    bits: int
    books: npt.NDArray[np.int8]
    search: tuple[Candidate, ...]

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def block_bytes(self) -> int:
        return 2 + BLOCK * self.bits // 8

    def thresholds(self, candidate: Candidate) -> npt.NDArray[np.int16]:
        """Return the levels-1 bounds between codes, in search units; a value's code is how many are below it."""
        book = self.books[candidate.book].astype(np.int64)
        bounds: npt.NDArray[np.int64] = (book[1:] + book[:-1]) * candidate.span // (2 * 127)
        return bounds.astype(np.int16)


@cache
def codec(name: CodecName) -> Codec:
    """Return the codec of that name."""
    entry = json.loads(CODEBOOKS_PATH.read_text("utf-8"))[name]
    return Codec(
        name=name,
        bits=int(name[-1]),
        books=np.array(entry["books"], dtype=np.int8),
        search=tuple(Candidate(book=b, flip=bool(f), span=s) for b, f, s in entry["search"]),
    )
