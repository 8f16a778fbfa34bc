"""The trellis code: how good it is, that its search finds the best, what it makes of extreme input, its bytes."""

from __future__ import annotations

import functools
import itertools
import operator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turbobench.codec import block, trellis_train
from turbobench.codec.golden import TRELLIS_VECTORS_PATH, extreme_blocks
from turbobench.codec.tables import BLOCK, SCALE_MAX, codec
from turbobench.codec.trellis import (
    BITS,
    BLOCK_BYTES,
    TARGET_UNIT,
    TRELLIS_VALUE_MAX,
    TRELLIS_VALUE_MIN,
    dequantize,
    nmse,
    quantize,
    trellis,
    viterbi,
    windows,
)
from turbobench.kvtypes import KV_TYPES

CODE = trellis()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_error_on_gaussian_blocks_is_below_seven_tenths_of_turbo3s(size: float) -> None:
    x = np.random.default_rng(11).standard_normal((1024, BLOCK)) * size
    error = nmse(CODE, x)
    assert error <= 0.0160
    assert error <= 0.7 * block.nmse(codec("turbo3"), x)


def test_a_block_takes_the_bytes_of_turbo3() -> None:
    assert quantize(CODE, np.ones((3, BLOCK))).shape == (3, BLOCK_BYTES)
    assert KV_TYPES["turbo3"].block_bytes == BLOCK_BYTES


def test_bytes_are_those_of_the_golden_vectors() -> None:
    with np.load(TRELLIS_VECTORS_PATH) as golden:
        np.testing.assert_array_equal(quantize(CODE, golden["x"]), golden["turbo3t"])


def test_the_search_finds_what_trying_every_sequence_finds() -> None:
    small = replace(CODE, window=6, masks=tuple(m & 63 for m in CODE.masks))
    target = np.random.default_rng(7).integers(-500, 500, (20, 4), dtype=np.int32)
    states = np.arange(small.states, dtype=np.int32)
    tries = np.array(list(itertools.product(states, *[range(1 << BITS)] * 4)), np.int32)
    entries = small.entries.astype(np.int64)[small.labels()]
    every = entries[windows(small, tries[:, 0], tries[:, 1:])]
    symbols, start = viterbi(small, target)
    found = entries[windows(small, start, symbols)]
    least = np.sum((target[:, None] - TARGET_UNIT * every) ** 2, axis=2).min(axis=1)
    np.testing.assert_array_equal(np.sum((target - TARGET_UNIT * found) ** 2, axis=1), least)


def test_every_value_is_read_from_its_own_and_two_earlier_symbols() -> None:
    data = quantize(CODE, np.random.default_rng(3).standard_normal((1, BLOCK)))
    before = dequantize(CODE, data)[0]
    for value in range(BLOCK):
        changed = data.copy()
        changed[0, 2 + value // 8] ^= 1 << value % 8
        (moved,) = np.nonzero(dequantize(CODE, changed)[0] != before)
        assert value in moved
        assert set(moved) <= {value, value + 1, value + 2}


def test_all_indices_of_a_block_are_a_few_operations_on_its_planes() -> None:
    # the form of a kernel: each bit plane of the indices is an XOR of the planes and of the planes shifted by a value
    data = quantize(CODE, np.random.default_rng(5).standard_normal((1, BLOCK)))[0]
    start, low64 = int(data[0]) & (CODE.states - 1), (1 << BLOCK) - 1
    planes = [int.from_bytes(data[2 + 8 * k : 10 + 8 * k].tobytes(), "little") for k in range(BITS)]
    window_planes = list(planes)
    for back in (0, 1):
        before = [start >> (BITS * back + k) & 1 for k in range(BITS)]
        window_planes += [(window_planes[BITS * back + k] << 1 | before[k]) & low64 for k in range(BITS)]
    used = [[window_planes[bit] for bit in range(CODE.window) if mask >> bit & 1] for mask in CODE.masks]
    assert sum(len(terms) - 1 for terms in used) == 10  # TRELLIS.md counts on it
    index_planes = [functools.reduce(operator.xor, terms) for terms in used]
    indices = [sum((plane >> v & 1) << bit for bit, plane in enumerate(index_planes)) for v in range(BLOCK)]
    decoded = dequantize(CODE, data[None])[0]
    entries = CODE.entries[indices].astype(np.float32)
    np.testing.assert_array_equal(decoded, entries * (decoded[0] / entries[0]))


def test_ways_out_of_a_state_and_into_it_are_spread_over_the_table() -> None:
    high = (CODE.labels() >> (len(CODE.masks) - BITS)).reshape(-1, 1 << BITS)
    np.testing.assert_array_equal(np.sort(high, axis=1), np.tile(np.arange(1 << BITS), (len(high), 1)))
    into = (CODE.labels() >> (len(CODE.masks) - BITS)).reshape(1 << BITS, -1)
    np.testing.assert_array_equal(np.sort(into, axis=0), np.tile(np.arange(1 << BITS)[:, None], (1, into.shape[1])))
    np.testing.assert_array_equal(np.bincount(CODE.labels()), np.full(len(CODE.entries), 1 << BITS))


def test_entries_ascend_and_sums_stay_within_int32() -> None:
    entries = CODE.entries.astype(int)
    assert (np.diff(entries) >= 0).all()
    assert np.abs(entries).max() == 127
    # no magnitude is over eight times the RMS of its block of 64
    assert BLOCK * 127 * (2 * 127 + max(127, 8 * max(CODE.spans)) * TARGET_UNIT) < 2**31


def test_decoded_blocks_are_stored_as_themselves() -> None:
    # llama-kv-center.h moves the center so that the first key is such a block
    data = quantize(CODE, np.random.default_rng(6).standard_normal((512, BLOCK)))
    np.testing.assert_array_equal(dequantize(CODE, quantize(CODE, dequantize(CODE, data))), dequantize(CODE, data))


def test_every_start_state_is_used() -> None:
    data = quantize(CODE, np.random.default_rng(4).standard_normal((2048, BLOCK)))
    assert np.bincount(data[:, 0] & (CODE.states - 1), minlength=CODE.states).min() > 0


def test_extreme_input_decodes_to_finite_halves() -> None:
    decoded = dequantize(CODE, quantize(CODE, extreme_blocks()))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= SCALE_MAX


def test_nan_counts_as_zero_and_infinity_as_the_largest_value() -> None:
    x = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    holes = np.where(np.arange(BLOCK) % 5 == 0, np.nan, x)
    np.testing.assert_array_equal(quantize(CODE, [holes]), quantize(CODE, [np.nan_to_num(holes)]))
    spike = np.where(np.arange(BLOCK) == 9, -np.inf, x)
    capped = np.where(np.arange(BLOCK) == 9, -TRELLIS_VALUE_MAX, x)
    np.testing.assert_array_equal(quantize(CODE, [spike]), quantize(CODE, [capped]))


def test_a_vanishing_block_is_zero_bytes_and_reads_as_zeros() -> None:
    below = np.nextafter(np.float32(TRELLIS_VALUE_MIN), np.float32(0))
    for size in (0.0, 1e-44, below):
        data = quantize(CODE, np.full((1, BLOCK), size))
        assert not data.any()
        assert not dequantize(CODE, data).any()
    assert quantize(CODE, np.full((1, BLOCK), TRELLIS_VALUE_MIN)).any()


@settings(max_examples=40, deadline=None)
@given(x=hnp.arrays(np.float32, (2, BLOCK), elements=st.floats(width=32)))
def test_any_floats_survive_a_round_trip(x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    decoded = dequantize(CODE, quantize(CODE, x))
    seen = np.clip(
        np.nan_to_num(x, nan=0.0, posinf=TRELLIS_VALUE_MAX, neginf=-TRELLIS_VALUE_MAX),
        -TRELLIS_VALUE_MAX,
        TRELLIS_VALUE_MAX,
    )
    peak = np.abs(seen).max(axis=1, keepdims=True)
    vanishes = peak[:, 0] < TRELLIS_VALUE_MIN
    assert not decoded[vanishes].any()
    assert (np.abs(decoded - seen) <= 0.75 * peak)[~vanishes].all()


def test_a_step_of_the_training_betters_a_plain_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, steps in (("MAPS", 2), ("MAP_BLOCKS", 64), ("TRAIN_BLOCKS", 256), ("STEPS", 4)):
        monkeypatch.setattr(trellis_train, stage, steps)
    x = np.random.default_rng(1).standard_normal((512, BLOCK))
    assert nmse(trellis_train.train(), x) < 0.0170
