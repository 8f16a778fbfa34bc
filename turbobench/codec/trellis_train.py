"""Trains the trellis code: a random search for the XOR map, then Lloyd's algorithm on the table, on Gaussian blocks.

The map's form is fixed where it matters. The newest symbol is the high three bits of the index, as it is, so that the
eight ways out of a state are eight entries spread over the whole table; the low three bits depend on the middle symbol
alone, so that the eight ways into a state differ as widely. The rest is drawn at random, the best of MAPS kept.
Deterministic; takes some minutes.
"""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from turbobench.codec.tables import BLOCK
from turbobench.codec.trellis import BITS, Trellis, factors, viterbi, windows

SEED = 64
WINDOW = 3 * BITS
INDEX_BITS = 6
MAPS, MAP_BLOCKS = 200, 256
TRAIN_BLOCKS, STEPS = 2048, 25
SPREADS = (0.86, 0.96, 1.06)
"""The spans, as fractions of the one that gives a block the scale of the table before it was brought to int8."""

Reals = npt.NDArray[np.float64]


def train() -> Trellis:
    """Return the code of turbo3t."""
    rng = np.random.default_rng(SEED)
    few, many = _unit_blocks(rng, MAP_BLOCKS), _unit_blocks(rng, TRAIN_BLOCKS)
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / 2**INDEX_BITS) for i in range(2**INDEX_BITS)])
    first = _random_masks(rng)
    table = quantiles
    for _ in range(8):
        table, _ = improve(_code(first, table, (1.0,)), table, few)
    drawn = [first, *(_random_masks(rng) for _ in range(MAPS - 1))]
    masks = min(drawn, key=lambda m: improve(_code(m, table, (1.0,)), table, few)[1])
    table = quantiles
    for _ in range(STEPS):
        table, _ = improve(_code(masks, table, SPREADS), table, many)
    return _code(masks, table, SPREADS)


def trellis_json() -> str:
    """Train and return the text of `trellis.json`."""
    code = train()
    masks = [f"{m:0{WINDOW}b}" for m in code.masks]
    rows = ",\n".join(f"    {json.dumps(row)[1:-1]}" for row in code.entries.reshape(-1, 16).tolist())
    return (
        f'{{\n  "window": {code.window},\n  "masks": {json.dumps(masks)},\n'
        f'  "spans": {json.dumps(code.spans)},\n  "entries": [\n{rows}\n  ]\n}}\n'
    )


def improve(code: Trellis, table: Reals, blocks: Reals) -> tuple[Reals, float]:
    """Do one step of Lloyd's algorithm: return the entries moved to the means of what they stand for, and the error.

    `blocks` [n, 64] have RMS 1, `table` is `code.entries` before rounding, in such units; the error is per energy.
    """
    least = np.full(len(blocks), np.inf)
    index, scale = np.zeros(blocks.shape, np.intp), np.zeros(len(blocks))
    labels = code.labels()
    peak = np.abs(blocks).max(axis=1).astype(np.float32)
    for factor in factors(code, np.ones_like(peak), peak):
        symbols, start = viterbi(code, np.rint(blocks * factor[:, None]).astype(np.int32))
        used = labels[windows(code, start, symbols)]
        entries = table[used]
        fit = np.sum(blocks * entries, axis=1) / np.sum(entries**2, axis=1)
        error = np.sum((blocks - fit[:, None] * entries) ** 2, axis=1)
        won = error < least
        least[won], index[won], scale[won] = error[won], used[won], fit[won]
    moment = np.bincount(index.ravel(), (scale[:, None] * blocks).ravel(), len(table))
    mass = np.bincount(index.ravel(), np.repeat(scale**2, BLOCK), len(table))
    return np.where(mass > 0, moment / np.maximum(mass, 1e-30), table), float(least.sum() / blocks.size)


def _code(masks: tuple[int, ...], table: Reals, spreads: tuple[float, ...]) -> Trellis:
    unit = 127 / np.abs(table).max()
    entries = np.rint(table * unit).astype(np.int8)
    spans = tuple(round(float(unit * s), 2) for s in spreads)
    return Trellis(window=WINDOW, masks=masks, entries=entries, spans=spans)


def _random_masks(rng: np.random.Generator) -> tuple[int, ...]:
    """Return masks of the form that the module describes, lowest index bit first."""
    low, middle, old = (_random_rows(rng, invertible) for invertible in (True, False, True))
    fine = [row << BITS for row in low]
    coarse = [1 << bit | middle[bit] << BITS | old[bit] << 2 * BITS for bit in range(BITS)]
    return (*fine, *coarse)


def _random_rows(rng: np.random.Generator, invertible: bool) -> list[int]:
    """Return the rows of a random 3 x 3 matrix over GF(2), as bits."""
    while True:
        rows = [int(r) for r in rng.integers(0, 1 << BITS, BITS)]
        sums = {bool(i & 1) * rows[0] ^ bool(i & 2) * rows[1] ^ bool(i & 4) * rows[2] for i in range(1 << BITS)}
        if not invertible or len(sums) == 1 << BITS:
            return rows


def _unit_blocks(rng: np.random.Generator, n: int) -> Reals:
    x = rng.standard_normal((n, BLOCK))
    unit: Reals = x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))
    return unit
