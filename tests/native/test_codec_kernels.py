"""The C codec against the numpy reference: the same bytes, the same floats, the same dot products, on every ISA."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tests.native.conftest import Driver
from turbobench.codec import trellis
from turbobench.codec.block import dequantize, quantize
from turbobench.codec.golden import extreme_blocks, random_blocks
from turbobench.codec.tables import CODEC_NAMES, CodecName, codec

TYPES = pytest.mark.parametrize("name", CODEC_NAMES)
PATHS = pytest.mark.parametrize("path", ["ref", "simd"])


def _blocks() -> npt.NDArray[np.float32]:
    return np.concatenate([random_blocks(4000, seed=7), extreme_blocks()])


def _every_half_scale(name: CodecName) -> npt.NDArray[np.uint8]:
    """Blocks with each finite half as the scale, so each book and sign, and random codes."""
    halves = np.arange(1 << 16, dtype="<u2")
    halves = halves[(halves & 0x7C00) != 0x7C00][::7]
    rng = np.random.default_rng(3)
    data = rng.integers(0, 256, (len(halves), codec(name).block_bytes), dtype=np.uint8)
    data[:, :2] = halves[:, None].view(np.uint8)
    return data


def _q8_0(n: int, values: npt.NDArray[np.int8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Q8_0 blocks [n, 34] of the codes given, and the values they stand for."""
    scale = np.random.default_rng(5).uniform(-2, 2, n).astype(np.float16)
    data = np.concatenate([scale[:, None].view(np.uint8), values.view(np.uint8)], axis=1)
    return data, scale.astype(np.float64)[:, None] * values


def test_the_compiled_form_is_the_one_meant(driver: Driver) -> None:
    assert driver.run("isa").decode().strip() == driver.variant.isa


@PATHS
@TYPES
def test_c_makes_the_bytes_of_the_numpy_reference(driver: Driver, name: CodecName, path: str) -> None:
    x = _blocks()
    made = np.frombuffer(driver.run("quantize", path, name, data=x.tobytes()), np.uint8)
    np.testing.assert_array_equal(made.reshape(len(x), -1), quantize(codec(name), x))


@PATHS
@TYPES
def test_c_decodes_to_the_floats_of_the_numpy_reference(driver: Driver, name: CodecName, path: str) -> None:
    data = _every_half_scale(name)
    made = np.frombuffer(driver.run("dequantize", path, name, data=data.tobytes()), np.uint32)
    np.testing.assert_array_equal(made.reshape(len(data), -1), dequantize(codec(name), data).view(np.uint32))


@PATHS
@TYPES
@pytest.mark.parametrize("n", [1, 2, 3, 9], ids=lambda n: f"{64 * n}-values")
def test_dot_product_is_exact_to_float_rounding(driver: Driver, name: CodecName, path: str, n: int) -> None:
    rng = np.random.default_rng(n)
    data = quantize(codec(name), random_blocks(2 * n, seed=n)[:n])
    extreme = np.where(rng.random((2 * n, 32)) < 0.5, np.int8(127), np.int8(-128))
    for values in (rng.integers(-127, 128, (2 * n, 32), dtype=np.int8), extreme.astype(np.int8)):
        q, y = _q8_0(2 * n, values)
        products = dequantize(codec(name), data).astype(np.float64) * y.reshape(n, 64)
        made = np.frombuffer(driver.run("dot", path, name, data=data.tobytes() + q.tobytes()), np.float32)[0]
        assert abs(made - products.sum()) <= 1e-6 * np.abs(products).sum()


def test_the_trellis_in_c_makes_the_bytes_of_the_numpy_reference(driver: Driver) -> None:
    sparse = random_blocks(200, seed=8) * (np.random.default_rng(8).random((200, 64)) < 0.1)
    x = np.concatenate([random_blocks(400, seed=7), sparse, extreme_blocks()]).astype(np.float32)
    made = np.frombuffer(driver.run("quantize", "ref", "turbo3t", data=x.tobytes()), np.uint8)
    np.testing.assert_array_equal(made.reshape(len(x), -1), trellis.quantize(trellis.trellis(), x))


def test_the_trellis_in_c_decodes_to_the_floats_of_the_numpy_reference(driver: Driver) -> None:
    # each finite scale, and random start states and symbols
    rng = np.random.default_rng(3)
    field = np.arange(0x7C00 >> 5, dtype="<u2") << 6 | rng.integers(0, 64, 0x7C00 >> 5, dtype="<u2")
    data = rng.integers(0, 256, (len(field), trellis.BLOCK_BYTES), dtype=np.uint8)
    data[:, :2] = field[:, None].astype("<u2").view(np.uint8)
    made = np.frombuffer(driver.run("dequantize", "ref", "turbo3t", data=data.tobytes()), np.uint32)
    expected = trellis.dequantize(trellis.trellis(), data)
    np.testing.assert_array_equal(made.reshape(len(data), -1), expected.view(np.uint32))


def test_speed_is_printed(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    lines = driver.run("bench").decode().strip().splitlines()
    with capsys.disabled():
        print(*("", *(f"  {driver.variant.name}: {line}" for line in lines)), sep="\n")  # noqa: T201 - for the reader
    assert [line.split()[0] for line in lines] == ["turbo3", "turbo3", "turbo4", "turbo4"]
