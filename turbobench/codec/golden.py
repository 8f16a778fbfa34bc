"""Golden vectors: fixed blocks and the bytes that every implementation must make of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from turbobench.codec import trellis
from turbobench.codec.block import quantize
from turbobench.codec.tables import BLOCK, codec

GOLDEN_SEED = 20261001
PATH = Path(__file__).with_name("golden.npz")
"""The committed vectors, as `golden_file` makes them."""
TRELLIS_VECTORS_PATH = Path(__file__).with_name("golden_trellis.npz")
"""Those of the trellis, as `golden_trellis_file` makes them."""


def random_blocks(n: int, seed: int = GOLDEN_SEED) -> npt.NDArray[np.float32]:
    """Return Gaussian blocks [n, 64] of very different sizes, the first half of unit variance."""
    rng = np.random.default_rng(seed)
    scale = np.ones(n)
    scale[n // 2 :] = 10.0 ** rng.uniform(-6, 5, n - n // 2)
    return (rng.standard_normal((n, BLOCK)) * scale[:, None]).astype(np.float32)


def extreme_blocks() -> npt.NDArray[np.float32]:
    """Return blocks [n, 64] that a codec must survive: zeros, huge, denormal, infinite, NaN, constant, ties, sparse."""
    ramp = np.linspace(-1, 1, BLOCK)
    one_hot = np.zeros(BLOCK)
    one_hot[17] = 1
    mixed = np.where(np.arange(BLOCK) % 3 == 0, np.nan, ramp)
    with np.errstate(over="ignore"):
        rows = [
            np.zeros(BLOCK), -np.zeros(BLOCK), one_hot, -one_hot, one_hot * 1e30, ramp + one_hot * 1e30,
            ramp * 3e38, ramp * 1e-38, ramp * 1e-44, ramp * 2.0**-20, ramp * 2.0**-21, ramp * 1e-5, ramp * 64992.25,
            ramp * 65504, np.ones(BLOCK), -np.ones(BLOCK), np.where(np.arange(BLOCK) % 2, 1.0, -1.0), ramp, -ramp,
            np.full(BLOCK, np.nan), mixed, np.full(BLOCK, np.inf), np.full(BLOCK, -np.inf),
            np.where(np.arange(BLOCK) == 5, np.inf, ramp), np.where(np.arange(BLOCK) == 63, -np.inf, ramp),
            np.where(np.arange(BLOCK) == 0, -np.inf, mixed), ramp**3, np.abs(ramp), ramp**15,
        ]  # fmt: skip
        return np.array(rows).astype(np.float32)


def golden_file() -> bytes:
    """Return the golden vectors as the bytes of an .npz: the input `x`, and the codes of each type."""
    x = np.concatenate([random_blocks(64), extreme_blocks()])
    buffer = io.BytesIO()
    turbo3, turbo4 = quantize(codec("turbo3"), x), quantize(codec("turbo4"), x)
    np.savez_compressed(buffer, x=x, turbo3=turbo3, turbo4=turbo4)
    return buffer.getvalue()


def golden_trellis_file() -> bytes:
    """Return turbo3t's bytes of the same input; a file of its own, as no backend has to make them yet."""
    x = np.concatenate([random_blocks(64), extreme_blocks()])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, turbo3t=trellis.quantize(trellis.trellis(), x))
    return buffer.getvalue()
