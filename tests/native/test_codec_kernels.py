"""The C codec against the numpy reference: the same bytes, the same floats, the same dot products, on every ISA."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pytest

from tests.native.conftest import Driver
from turbobench.codec.golden import extreme_blocks, random_blocks
from turbobench.codec.types import TURBO_NAMES, TurboName, dequantize, every_scale, golden_vectors, quantize

TYPES = pytest.mark.parametrize("name", TURBO_NAMES)
PATHS = pytest.mark.parametrize("path", ["ref", "simd"])


@functools.cache
def _encoded(name: TurboName) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Golden, random, sparse and extreme blocks, and their bytes; fewer for the trellis, whose numpy form is slow."""
    n = 600 if name == "turbo3t" else 4000
    sparse = random_blocks(n // 4, seed=8) * (np.random.default_rng(8).random((n // 4, 64)) < 0.1)
    x = np.concatenate([random_blocks(n, seed=7), sparse, extreme_blocks()]).astype(np.float32)
    golden_x, golden_bytes = golden_vectors(name)
    return np.concatenate([golden_x, x]), np.concatenate([golden_bytes, quantize(name, x)])


def _q8_0(n: int, values: npt.NDArray[np.int8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Q8_0 blocks [n, 34] of the codes given, and the values they stand for."""
    scale = np.random.default_rng(5).uniform(-2, 2, n).astype(np.float16)
    data = np.concatenate([scale[:, None].view(np.uint8), values.view(np.uint8)], axis=1)
    return data, scale.astype(np.float64)[:, None] * values


def test_the_compiled_form_is_the_one_meant(driver: Driver) -> None:
    assert driver.run("isa").decode().strip() == driver.variant.isa


@PATHS
@TYPES
def test_c_makes_the_bytes_of_the_numpy_reference(driver: Driver, name: TurboName, path: str) -> None:
    x, wanted = _encoded(name)
    made = np.frombuffer(driver.run("quantize", path, name, data=x.tobytes()), np.uint8)
    np.testing.assert_array_equal(made.reshape(len(x), -1), wanted)


def test_the_trellis_is_searched_as_the_c_reference_does_on_many_more_blocks(driver: Driver) -> None:
    rng = np.random.default_rng(12)
    heavy, small = rng.standard_cauchy((1000, 64)), rng.integers(-3, 4, (1000, 64)).astype(np.float64)
    data = np.concatenate([random_blocks(3000, seed=12), heavy, small]).astype(np.float32).tobytes()
    assert driver.run("quantize", "simd", "turbo3t", data=data) == driver.run("quantize", "ref", "turbo3t", data=data)


@PATHS
@TYPES
def test_c_decodes_to_the_floats_of_the_numpy_reference(driver: Driver, name: TurboName, path: str) -> None:
    data = every_scale(name, 9000, np.random.default_rng(3))
    made = np.frombuffer(driver.run("dequantize", path, name, data=data.tobytes()), np.uint32)
    np.testing.assert_array_equal(made.reshape(len(data), -1), dequantize(name, data).view(np.uint32))


@PATHS
@TYPES
@pytest.mark.parametrize("n", [1, 2, 3, 9], ids=lambda n: f"{64 * n}-values")
def test_dot_product_is_exact_to_float_rounding(driver: Driver, name: TurboName, path: str, n: int) -> None:
    rng = np.random.default_rng(n)
    data = quantize(name, random_blocks(2 * n, seed=n)[:n])
    extreme = np.where(rng.random((2 * n, 32)) < 0.5, np.int8(127), np.int8(-128))
    for values in (rng.integers(-127, 128, (2 * n, 32), dtype=np.int8), extreme.astype(np.int8)):
        q, y = _q8_0(2 * n, values)
        products = dequantize(name, data).astype(np.float64) * y.reshape(n, 64)
        made = np.frombuffer(driver.run("dot", path, name, data=data.tobytes() + q.tobytes()), np.float32)[0]
        assert abs(made - products.sum()) <= 1e-6 * np.abs(products).sum()


def test_speed_is_printed(driver: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    lines = driver.run("bench").decode().strip().splitlines()
    with capsys.disabled():
        print(*("", *(f"  {driver.variant.name}: {line}" for line in lines)), sep="\n")  # noqa: T201 - for the reader
    assert [line.split()[0] for line in lines] == ["turbo3", "turbo3", "turbo4", "turbo4", "turbo3t", "turbo3t"]
