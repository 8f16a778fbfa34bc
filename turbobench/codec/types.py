"""The turbo types by name, whatever their code is: quantize, dequantize, golden vectors, blocks to decode."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from turbobench.codec import block, golden, trellis
from turbobench.codec.block import Bytes, Floats
from turbobench.codec.tables import codec

TurboName = Literal["turbo3", "turbo4", "turbo3t"]
TURBO_NAMES: tuple[TurboName, ...] = ("turbo3", "turbo4", "turbo3t")


def turbo_name(type_name: str) -> TurboName:
    """Return the name as that of a turbo type; ValueError for any other."""
    for name in TURBO_NAMES:
        if name == type_name:
            return name
    raise ValueError(f"{type_name} is no turbo type")


def block_bytes(name: TurboName) -> int:
    return trellis.BLOCK_BYTES if name == "turbo3t" else codec(name).block_bytes


def quantize(name: TurboName, x: npt.ArrayLike) -> Bytes:
    """Quantize blocks [n, 64] of any float32 values to bytes [n, block_bytes]."""
    return trellis.quantize(trellis.trellis(), x) if name == "turbo3t" else block.quantize(codec(name), x)


def dequantize(name: TurboName, data: Bytes) -> Floats:
    """Dequantize bytes [n, block_bytes] to float32 [n, 64]."""
    return trellis.dequantize(trellis.trellis(), data) if name == "turbo3t" else block.dequantize(codec(name), data)


def golden_vectors(name: TurboName) -> tuple[Floats, Bytes]:
    """Return the committed input [n, 64] and the bytes that the type must make of it."""
    with np.load(golden.TRELLIS_VECTORS_PATH if name == "turbo3t" else golden.PATH) as committed:
        return committed["x"], committed[name]


def fields_of(name: TurboName, halves: npt.NDArray[np.uint16], rng: np.random.Generator) -> Bytes:
    """Return the first two bytes [..., 2] of blocks whose scales are about these halves, with all else in them random.

    That is the book and the sign, or the start state.
    """
    if name == "turbo3t":
        bits = (halves & 0x7FE0) << 1 | rng.integers(0, 64, halves.shape, dtype=np.uint16)
    else:
        bits = halves & 0x7FF8 | rng.integers(0, 8, halves.shape, dtype=np.uint16)
        bits = bits | rng.integers(0, 2, halves.shape, dtype=np.uint16) << 15
    return bits.astype("<u2")[..., None].view(np.uint8)


def every_scale(name: TurboName, n: int, rng: np.random.Generator) -> Bytes:
    """Return `n` blocks [n, block_bytes] of random codes whose scales go through all finite ones, books and signs."""
    fields = np.arange(1 << 16, dtype="<u2")
    fields = fields[fields < 0x7C00 << 1] if name == "turbo3t" else fields[(fields & 0x7C00) != 0x7C00]
    data = rng.integers(0, 256, (n, block_bytes(name)), dtype=np.uint8)
    data[:, :2] = fields[np.linspace(0, len(fields) - 1, n).astype(np.int64)][:, None].view(np.uint8)
    return data
