"""The numpy codec: how good it is, what it makes of extreme input, and that its bytes do not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turbobench.codec.block import dequantize, nmse, quantize
from turbobench.codec.golden import PATH, extreme_blocks, golden_file
from turbobench.codec.tables import BLOCK, BOOKS, CODEC_NAMES, VALUE_MAX, VALUE_MIN, CodecName, codec
from turbobench.kvtypes import KV_TYPES

TYPES = pytest.mark.parametrize("name", CODEC_NAMES)

# design: turbo4 <= .0066 and turbo3 <= .0273; the eight books must keep what they gained over its one table
NMSE_BOUND: dict[CodecName, float] = {"turbo3": 0.0242, "turbo4": 0.0057}


@TYPES
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_nmse_on_gaussian_blocks_is_below_the_bound_at_any_size(name: CodecName, size: float) -> None:
    x = np.random.default_rng(11).standard_normal((8192, BLOCK)) * size
    assert nmse(codec(name), x) <= NMSE_BOUND[name]


@TYPES
def test_a_block_takes_the_bytes_that_the_type_declares(name: CodecName) -> None:
    assert quantize(codec(name), np.ones((3, BLOCK))).shape == (3, KV_TYPES[name].block_bytes)


@TYPES
def test_bytes_are_those_of_the_golden_vectors(name: CodecName) -> None:
    with np.load(PATH) as golden:
        np.testing.assert_array_equal(quantize(codec(name), golden["x"]), golden[name])


def test_golden_vectors_are_what_the_generator_makes(tmp_path: Path) -> None:
    made = tmp_path / "golden.npz"
    made.write_bytes(golden_file())
    with np.load(PATH) as golden, np.load(made) as again:
        assert sorted(golden) == sorted(again)
        for key in golden:
            np.testing.assert_array_equal(golden[key], again[key])


@TYPES
def test_extreme_input_decodes_to_finite_values_within_the_range(name: CodecName) -> None:
    decoded = dequantize(codec(name), quantize(codec(name), extreme_blocks()))
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() <= VALUE_MAX


@TYPES
def test_nan_counts_as_zero_and_infinity_as_the_largest_value(name: CodecName) -> None:
    x = np.linspace(-1, 1, BLOCK, dtype=np.float32)
    holes = np.where(np.arange(BLOCK) % 5 == 0, np.nan, x)
    np.testing.assert_array_equal(quantize(codec(name), [holes]), quantize(codec(name), [np.nan_to_num(holes)]))
    spike = np.where(np.arange(BLOCK) == 9, -np.inf, x)
    capped = np.where(np.arange(BLOCK) == 9, -VALUE_MAX, x)
    np.testing.assert_array_equal(quantize(codec(name), [spike]), quantize(codec(name), [capped]))


@TYPES
def test_a_vanishing_block_is_zero_bytes(name: CodecName) -> None:
    below = np.nextafter(np.float32(VALUE_MIN), np.float32(0))
    for size in (0.0, 1e-44, below):
        assert not quantize(codec(name), np.full((1, BLOCK), size)).any()
    assert quantize(codec(name), np.full((1, BLOCK), VALUE_MIN)).any()


@TYPES
def test_negated_blocks_get_the_same_codes_and_the_other_sign(name: CodecName) -> None:
    x = np.random.default_rng(2).standard_normal((200, BLOCK))
    data, negated = quantize(codec(name), x), quantize(codec(name), -x)
    np.testing.assert_array_equal(data[:, 2:], negated[:, 2:])
    np.testing.assert_array_equal(data[:, 1] ^ 0x80, negated[:, 1])


@TYPES
def test_every_book_and_both_signs_are_used_on_gaussian_blocks(name: CodecName) -> None:
    data = quantize(codec(name), np.random.default_rng(4).standard_normal((8192, BLOCK)))
    share = np.bincount(data[:, 0] & (BOOKS - 1), minlength=BOOKS) / len(data)
    assert share.min() > 0.02
    assert 0.4 < np.mean(data[:, 1] >> 7) < 0.6


@TYPES
@settings(max_examples=60, deadline=None)
@given(x=hnp.arrays(np.float32, (2, BLOCK), elements=st.floats(width=32)))
def test_any_floats_survive_a_round_trip(name: CodecName, x: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
    decoded = dequantize(codec(name), quantize(codec(name), x))
    seen = np.clip(np.nan_to_num(x, nan=0.0, posinf=VALUE_MAX, neginf=-VALUE_MAX), -VALUE_MAX, VALUE_MAX)
    peak = np.abs(seen).max(axis=1, keepdims=True)
    vanishes = peak[:, 0] < VALUE_MIN
    assert not decoded[vanishes].any()
    # no value is off by more than the widest cell of a book at the widest span; scales are coarse where halves are
    assert (np.abs(decoded - seen) <= 0.75 * peak)[~vanishes].all()


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        quantize(codec("turbo4"), np.zeros((2, 32)))
