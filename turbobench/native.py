"""The quantizers of a build, called through its shared libraries: what a K/V cache really stores.

Run as `python -m turbobench.native BIN_DIR TYPE BLOCKS SEED` it prints one JSON object, {"nmse": …, "n_values": …}; the
runner starts it as a process, because a wrong instruction in native code would end the caller.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from turbobench.errors import BuildError, MeasurementError
from turbobench.kvtypes import KV_TYPES

GAUSSIAN_BLOCK = 64

Floats = npt.NDArray[np.float32]

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_FROM_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` of ggml.h at the pin."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", _FROM_FLOAT),
    )


class _TypeTraitsCpu(ctypes.Structure):
    """The first field of `struct ggml_type_traits_cpu` of ggml-cpu.h at the pin."""

    _fields_ = (("from_float", _FROM_FLOAT),)


class NativeCodec:
    """Quantize and dequantize by the code of the build in `bin_dir`; raises BuildError when it does not load."""

    def __init__(self, bin_dir: Path) -> None:
        self._base = load_library(bin_dir, "ggml-base")
        self._cpu = load_library(bin_dir, "ggml-cpu")
        self._base.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
        self._cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_TypeTraitsCpu)
        self._cpu.ggml_cpu_init()

    def quantize(self, name: str, values: Floats, *, reference: bool = False) -> bytes:
        """Quantize a flat float32 array whose length is a multiple of the block.

        The result is what SET_ROWS stores on the CPU (`type_traits_cpu.from_float`), or with `reference` what the
        scalar reference gives (`from_float_ref`).
        """
        traits = self._traits(name)
        if values.size % traits.blck_size:
            raise ValueError(f"{values.size} values are no multiple of the block of {name}, {traits.blck_size}")
        source = np.ascontiguousarray(values, dtype=np.float32)
        target = ctypes.create_string_buffer(values.size // traits.blck_size * traits.type_size)
        convert = traits.from_float_ref if reference else self._cpu_traits(name).from_float
        if not convert:
            raise BuildError(f"this build cannot quantize to {name} on the CPU", "run 'turbobench build' again")
        convert(source.ctypes.data, ctypes.addressof(target), values.size)
        return target.raw

    def dequantize(self, name: str, data: bytes) -> Floats:
        """Return the float32 values of whole blocks."""
        traits = self._traits(name)
        if len(data) % traits.type_size:
            raise ValueError(f"{len(data)} bytes are no whole blocks of {name}")
        values = np.empty(len(data) // traits.type_size * traits.blck_size, dtype=np.float32)
        source = ctypes.create_string_buffer(data, len(data))
        traits.to_float(ctypes.addressof(source), values.ctypes.data, values.size)
        return values

    def _traits(self, name: str) -> Any:  # noqa: ANN401 - ctypes fields have no static types
        traits = self._base.ggml_get_type_traits(KV_TYPES[name].ggml_id).contents
        known = KV_TYPES[name]
        if (traits.blck_size, traits.type_size) != (known.block, known.block_bytes):
            raise BuildError(
                f"this build stores {name} as {traits.type_size} bytes for {traits.blck_size} values, "
                f"not {known.block_bytes} for {known.block}",
                "it is not a build of the patched tree; run 'turbobench build'",
            )
        return traits

    def _cpu_traits(self, name: str) -> Any:  # noqa: ANN401 - ctypes fields have no static types
        return self._cpu.ggml_get_type_traits_cpu(KV_TYPES[name].ggml_id).contents


def gaussian_nmse(codec: NativeCodec, name: str, *, blocks: int, seed: int) -> tuple[float, int]:
    """Return NMSE = sum((x-y)^2) / sum(x^2) over `blocks` blocks of 64 values of N(0,1), and the number of values."""
    values = np.random.default_rng(seed).standard_normal(blocks * GAUSSIAN_BLOCK, dtype=np.float32)
    back = codec.dequantize(name, codec.quantize(name, values))
    exact = values.astype(np.float64)
    return float(np.sum((exact - back) ** 2) / np.sum(exact**2)), values.size


def argv(bin_dir: Path, name: str, *, blocks: int, seed: int) -> list[str]:
    """Return the command line that measures the NMSE of one type in a process of its own."""
    return [sys.executable, "-m", "turbobench.native", str(bin_dir), name, str(blocks), str(seed)]


def parse(stdout: str) -> tuple[float, int]:
    """Read NMSE and the number of values; raises MeasurementError for anything but a finite non-negative NMSE."""
    try:
        found = json.loads(stdout)
        nmse, n_values = float(found["nmse"]), int(found["n_values"])
    except (ValueError, KeyError, TypeError):
        raise MeasurementError(f"no NMSE in {stdout[-200:]!r}", "the log says why") from None
    if not (np.isfinite(nmse) and nmse >= 0 and n_values > 0):
        raise MeasurementError(
            f"NMSE = {nmse} over {n_values} values", "the quantizer of this build gives NaN or infinity"
        )
    return nmse, n_values


def load_library(bin_dir: Path, name: str) -> ctypes.CDLL:
    """Load a shared library of a build, such as "ggml-base"; BuildError if it is not there or does not load."""
    stems = (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll")
    path = next((bin_dir / stem for stem in stems if (bin_dir / stem).is_file()), None)
    if path is None:
        raise BuildError(f"{bin_dir} holds no shared library {name}", "run 'turbobench build' again")
    if sys.platform == "win32":
        os.add_dll_directory(str(bin_dir))
    try:
        return ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as failure:
        raise BuildError(f"{path} does not load: {failure}", "run 'turbobench build' again") from failure


def _main() -> None:
    bin_dir, name, blocks, seed = sys.argv[1:]
    try:
        nmse, n_values = gaussian_nmse(NativeCodec(Path(bin_dir)), name, blocks=int(blocks), seed=int(seed))
    except BuildError as failure:
        sys.stderr.write(f"error: {failure.what}\n")
        sys.exit(failure.exit_code)
    sys.stdout.write(json.dumps({"nmse": nmse, "n_values": n_values}) + "\n")


if __name__ == "__main__":
    _main()
