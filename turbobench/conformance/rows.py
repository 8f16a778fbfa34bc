"""Checks of what writes and reads cache rows: SET_ROWS, GET_ROWS and CPY give the bytes and floats of the reference."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from turbobench.codec import golden
from turbobench.codec.tables import BLOCK
from turbobench.codec.types import TurboName, block_bytes, dequantize, every_scale, golden_vectors, quantize
from turbobench.conformance.finding import Tally
from turbobench.conformance.reference import Bytes
from turbobench.ggml import Device

# NMSE on Gaussian blocks: the design's promise is .0066 and .0273, and what the eight books gain must not be lost.
NMSE_BOUND: dict[TurboName, float] = {"turbo3": 0.0242, "turbo4": 0.0057, "turbo3t": 0.0160}

_RANDOM_BLOCKS = 4096
_TRELLIS_BLOCKS = 1024  # its numpy encoder is slow
_UNTOUCHED = 0xA5
_WIDTHS = (64, 192, 1024)  # values of a row


def check_set_rows(device: Device, name: TurboName) -> Tally:
    """Write golden, random and extreme blocks to shuffled rows of several widths, by both types of index."""
    tally = Tally()
    for blocks, wanted, what in _encodings(name):
        for width in _WIDTHS:
            for index in ("i64", "i32"):
                x, expected = _as_rows(blocks, wanted, width)
                target = _set_rows(device, name, x, index)
                _compare_bytes(tally, target, expected, f"{what}, rows of {width}, {index}")
    return tally


def check_cpy_to(device: Device, name: TurboName) -> Tally:
    """Copy the same blocks from f32 into a cache as a whole."""
    tally = Tally()
    for blocks, wanted, what in _encodings(name):
        x, expected = _as_rows(blocks, wanted, 256)
        shape = (x.shape[1], x.shape[0], 1, 1)
        with device.graph() as graph:
            target = graph.input(name, shape, bytes(expected.size))
            graph.compute(graph.cpy(graph.input("f32", shape, x.tobytes()), target))
            made = np.frombuffer(graph.read(target, expected.size), np.uint8).reshape(expected.shape)
        _compare_bytes(tally, made, expected, what)
    return tally


def check_get_rows(device: Device, name: TurboName) -> Tally:
    """Read blocks with every finite scale, book and sign row by row, some of them twice."""
    tally = Tally()
    data, values = _decodings(name)
    for width in (64, 256):
        rows = data.reshape(-1, width // BLOCK * block_bytes(name))
        indices = np.random.default_rng(5).integers(0, len(rows), len(rows) + 3, dtype=np.int32)
        with device.graph() as graph:
            source = graph.input(name, (width, len(rows), 1, 1), rows.tobytes())
            chosen = graph.input("i32", (len(indices), 1, 1, 1), indices.tobytes())
            out = graph.get_rows(source, chosen)
            graph.compute(out)
            made = np.frombuffer(graph.read(out, 4 * width * len(indices)), np.float32).reshape(-1, width)
        _compare_floats(tally, made, values.reshape(-1, width)[indices], f"rows of {width}")
    return tally


def check_cpy_from(device: Device, name: TurboName, target: str = "f32") -> Tally:
    """Copy the same blocks out of a cache as a whole, to f32 or f16."""
    tally = Tally()
    data, values = _decodings(name)
    width = 256
    shape = (width, len(values) * BLOCK // width, 1, 1)
    with device.graph() as graph:
        out = graph.input(target, shape, bytes(values.size * (4 if target == "f32" else 2)))
        graph.compute(graph.cpy(graph.input(name, shape, data.tobytes()), out))
        read = graph.read(out, values.size * (4 if target == "f32" else 2))
    made = np.frombuffer(read, np.float32 if target == "f32" else np.float16).reshape(values.shape)
    wanted = values if target == "f32" else values.astype(np.float16)
    _compare_floats(tally, made.astype(np.float32), wanted.astype(np.float32), f"to {target}")
    return tally


def check_nmse(device: Device, name: TurboName) -> Tally:
    """Measure the error of a round trip of Gaussian values through the device's SET_ROWS."""
    tally = Tally()
    x = np.random.default_rng(11).standard_normal((_RANDOM_BLOCKS, BLOCK), dtype=np.float32)
    data = _set_rows(device, name, x, "i64")
    stored = data[: len(x)]
    error = dequantize(name, stored).astype(np.float64) - x
    nmse = float(np.sum(error**2) / np.sum(x.astype(np.float64) ** 2))
    tally.take("NMSE", nmse, NMSE_BOUND[name], "Gaussian blocks")
    return tally


@functools.cache
def _encodings(name: TurboName) -> list[tuple[npt.NDArray[np.float32], Bytes, str]]:
    """Return input blocks, the bytes that they must become, and what they are; the golden bytes are those committed."""
    n = _TRELLIS_BLOCKS if name == "turbo3t" else _RANDOM_BLOCKS
    blocks = np.concatenate([golden.random_blocks(n, seed=7), golden.extreme_blocks()])
    return [
        (*golden_vectors(name), "golden vectors"),
        (blocks, quantize(name, blocks), "random and extreme blocks"),
    ]


def _decodings(name: TurboName) -> tuple[Bytes, npt.NDArray[np.float32]]:
    data = every_scale(name, _RANDOM_BLOCKS, np.random.default_rng(3))
    return data, dequantize(name, data)


def _as_rows(blocks: npt.NDArray[np.float32], wanted: Bytes, width: int) -> tuple[npt.NDArray[np.float32], Bytes]:
    """Lay blocks out as rows of `width` values; the first blocks fill up the last row."""
    per_row = width // BLOCK
    order = np.arange(-(-len(blocks) // per_row) * per_row) % len(blocks)
    return blocks[order].reshape(-1, width), wanted[order].reshape(-1, per_row * wanted.shape[1])


def _set_rows(device: Device, name: TurboName, x: npt.NDArray[np.float32], index: str) -> Bytes:
    """Write the rows `x` to shuffled places among as many others; returns them in order, then the others."""
    n, width = x.shape
    row_bytes = width // BLOCK * block_bytes(name)
    places = np.random.default_rng(9).permutation(2 * n)
    before = bytes([_UNTOUCHED]) * (2 * n * row_bytes)
    with device.graph() as graph:
        target = graph.input(name, (width, 2 * n, 1, 1), before)
        indices = graph.input(index, (n, 1, 1, 1), places[:n].astype("<i8" if index == "i64" else "<i4").tobytes())
        graph.compute(graph.set_rows(target, graph.input("f32", (width, n, 1, 1), x.tobytes()), indices))
        after = np.frombuffer(graph.read(target, len(before)), np.uint8).reshape(2 * n, row_bytes)
    return after[places]


def _compare_bytes(tally: Tally, made: Bytes, wanted: Bytes, where: str) -> None:
    """Compare rows, and that rows beyond those wanted are as they were."""
    differing = int(np.any(made[: len(wanted)] != wanted, axis=1).sum())
    tally.take("rows that differ", differing, 0, where)
    touched = int(np.any(made[len(wanted) :] != _UNTOUCHED, axis=1).sum()) if len(made) > len(wanted) else 0
    tally.take("other rows touched", touched, 0, where)


def _compare_floats(tally: Tally, made: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], where: str) -> None:
    tally.take("values that differ", int((made != wanted).sum()), 0, where)
