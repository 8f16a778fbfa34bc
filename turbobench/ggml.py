"""Graphs of ggml on a device of a build, through its shared libraries: made, computed on that device alone, read back.

No scheduler stands between: a node runs on the device or is refused by it, and never goes to the CPU instead.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from turbobench.errors import DeviceMissingError
from turbobench.kvtypes import KV_TYPES
from turbobench.native import load_library

# What ggml's registry calls a backend.
REGISTRY = {"cpu": "CPU", "cuda": "CUDA", "hip": "ROCm", "metal": "MTL", "vulkan": "Vulkan"}

Tensor = ctypes.c_void_p
Shape = tuple[int, int, int, int]

_IDS = {**{name: known.ggml_id for name, known in KV_TYPES.items()}, "i32": 26, "i64": 27}
_PREC_F32 = 10
_MAX_NODES = 64
_STATUS_SUCCESS = 0
_P, _I64, _SIZE, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_float

# The functions of ggml.h, ggml-alloc.h and ggml-backend.h at the pin: result, then arguments.
_BASE: dict[str, tuple[Any, ...]] = {
    "ggml_free": (None, _P),
    "ggml_tensor_overhead": (_SIZE,),
    "ggml_graph_overhead": (_SIZE,),
    "ggml_row_size": (_SIZE, ctypes.c_int, _I64),
    "ggml_new_tensor_4d": (_P, _P, ctypes.c_int, _I64, _I64, _I64, _I64),
    "ggml_view_4d": (_P, _P, _P, _I64, _I64, _I64, _I64, _SIZE, _SIZE, _SIZE, _SIZE),
    "ggml_set_rows": (_P, _P, _P, _P, _P),
    "ggml_get_rows": (_P, _P, _P, _P),
    "ggml_cpy": (_P, _P, _P, _P),
    "ggml_flash_attn_ext": (_P, _P, _P, _P, _P, _P, _F, _F, _F),
    "ggml_flash_attn_ext_add_sinks": (None, _P, _P),
    "ggml_prec_set_acc": (ctypes.c_bool, _P, ctypes.c_int),
    "ggml_new_graph": (_P, _P),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_backend_supports_op": (ctypes.c_bool, _P, _P),
    "ggml_backend_alloc_ctx_tensors": (_P, _P, _P),
    "ggml_backend_tensor_set": (None, _P, _P, _SIZE, _SIZE),
    "ggml_backend_tensor_get": (None, _P, _P, _SIZE, _SIZE),
    "ggml_backend_graph_compute": (ctypes.c_int, _P, _P),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_buffer_name": (ctypes.c_char_p, _P),
    "ggml_backend_free": (None, _P),
    "ggml_backend_dev_init": (_P, _P, ctypes.c_char_p),
    "ggml_backend_dev_name": (ctypes.c_char_p, _P),
    "ggml_backend_dev_description": (ctypes.c_char_p, _P),
    "ggml_backend_dev_backend_reg": (_P, _P),
    "ggml_backend_reg_name": (ctypes.c_char_p, _P),
    "ggml_backend_reg_get_proc_address": (_P, _P, ctypes.c_char_p),
}
_REGISTRY: dict[str, tuple[Any, ...]] = {
    "ggml_backend_load_all": (None,),
    "ggml_backend_dev_count": (_SIZE,),
    "ggml_backend_dev_get": (_P, _SIZE),
}


class UnsupportedError(Exception):
    """The device refuses a node of a graph (`supports_op` says no)."""


class _InitParams(ctypes.Structure):
    """`struct ggml_init_params` of ggml.h."""

    _fields_ = (("mem_size", _SIZE), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceName:
    """A device as ggml names it: `CUDA0`, and what the driver calls it."""

    name: str
    description: str


class Device:
    """The first device of a backend in the build in `bin_dir`; DeviceMissingError if it has none."""

    def __init__(self, bin_dir: Path, backend: str, *, n_threads: int) -> None:
        self._base, self._all = load_library(bin_dir, "ggml-base"), load_library(bin_dir, "ggml")
        for library, functions in ((self._base, _BASE), (self._all, _REGISTRY)):
            for name, (result, *arguments) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        self._base.ggml_init.restype, self._base.ggml_init.argtypes = _P, [_InitParams]
        self._all.ggml_backend_load_all()
        device = self._find(backend)
        self.name = DeviceName(
            name=self._base.ggml_backend_dev_name(device).decode(),
            description=self._base.ggml_backend_dev_description(device).decode(),
        )
        self.handle = self._base.ggml_backend_dev_init(device, None)
        if not self.handle:
            raise DeviceMissingError(f"{self.name.name} ({self.name.description}) does not start", "see its driver")
        self._set_threads(device, n_threads)

    @property
    def base(self) -> ctypes.CDLL:
        return self._base

    def graph(self) -> Graph:
        return Graph(self)

    def _find(self, backend: str) -> int:
        found = [self._all.ggml_backend_dev_get(i) for i in range(self._all.ggml_backend_dev_count())]
        wanted = REGISTRY[backend]
        for device in found:
            registry = self._base.ggml_backend_dev_backend_reg(device)
            if self._base.ggml_backend_reg_name(registry).decode() == wanted:
                return int(device)
        names = ", ".join(self._base.ggml_backend_dev_name(device).decode() for device in found)
        raise DeviceMissingError(
            f"this build finds no {backend} device here, only: {names or 'none'}",
            f"run this on a machine with a device for {backend}",
        )

    def _set_threads(self, device: int, n_threads: int) -> None:
        registry = self._base.ggml_backend_dev_backend_reg(device)
        address = self._base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_set_n_threads")
        if address:
            ctypes.CFUNCTYPE(None, _P, ctypes.c_int)(address)(self.handle, n_threads)


class Graph:
    """A graph being made. Use it as a context manager: what it allocates on the device is freed at the end.

    Shapes are in ggml's order, the fastest dimension first.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._ggml = device, device.base
        overhead = self._ggml.ggml_tensor_overhead() * _MAX_NODES + self._ggml.ggml_graph_overhead()
        self._context = self._ggml.ggml_init(_InitParams(overhead, None, True))
        self._buffer: int | None = None
        self._data: list[tuple[Tensor, bytes]] = []
        self._ops: list[tuple[str, Tensor]] = []

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._buffer:
            self._ggml.ggml_backend_buffer_free(self._buffer)
        self._ggml.ggml_free(self._context)

    def input(self, type_name: str, shape: Shape, data: bytes) -> Tensor:
        """Return a contiguous tensor that holds `data` before the graph runs; ValueError if the size is another."""
        size = int(self._ggml.ggml_row_size(_IDS[type_name], shape[0])) * shape[1] * shape[2] * shape[3]
        if len(data) != size:
            raise ValueError(f"{type_name} {shape} takes {size} bytes, not {len(data)}")
        tensor = Tensor(self._ggml.ggml_new_tensor_4d(self._context, _IDS[type_name], *shape))
        self._data.append((tensor, data))
        return tensor

    def view(self, of: Tensor, shape: Shape, strides: tuple[int, int, int], offset: int = 0) -> Tensor:
        """Return a view; `strides` are the bytes from one index to the next in the dimensions 1 to 3."""
        return Tensor(self._ggml.ggml_view_4d(self._context, of, *shape, *strides, offset))

    def set_rows(self, target: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
        return self._op("SET_ROWS", self._ggml.ggml_set_rows(self._context, target, rows, indices))

    def get_rows(self, source: Tensor, indices: Tensor) -> Tensor:
        return self._op("GET_ROWS", self._ggml.ggml_get_rows(self._context, source, indices))

    def cpy(self, source: Tensor, target: Tensor) -> Tensor:
        return self._op("CPY", self._ggml.ggml_cpy(self._context, source, target))

    def attention(
        self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor, *, scale: float, max_bias: float, softcap: float
    ) -> Tensor:
        made = self._op(
            "FLASH_ATTN_EXT",
            self._ggml.ggml_flash_attn_ext(self._context, *qkv, mask, scale, max_bias, softcap),
        )
        self._ggml.ggml_prec_set_acc(made, _PREC_F32)
        return made

    def add_sinks(self, attention: Tensor, sinks: Tensor) -> None:
        self._ggml.ggml_flash_attn_ext_add_sinks(attention, sinks)

    def compute(self, out: Tensor) -> None:
        """Put the inputs on the device and compute `out` there; UnsupportedError if it refuses a node of it."""
        for name, tensor in self._ops:
            if not self._ggml.ggml_backend_supports_op(self._device.handle, tensor):
                raise UnsupportedError(f"{self._device.name.name} does not support this {name}")
        self._buffer = self._ggml.ggml_backend_alloc_ctx_tensors(self._context, self._device.handle)
        if not self._buffer:
            raise MemoryError(f"{self._device.name.name} has no memory for the tensors")
        for tensor, data in self._data:
            self._ggml.ggml_backend_tensor_set(tensor, data, 0, len(data))
        graph = self._ggml.ggml_new_graph(self._context)
        self._ggml.ggml_build_forward_expand(graph, out)
        status = self._ggml.ggml_backend_graph_compute(self._device.handle, graph)
        if status != _STATUS_SUCCESS:
            raise RuntimeError(f"{self._device.name.name} ended the graph with status {status}")

    def read(self, tensor: Tensor, size: int) -> bytes:
        """Return `size` bytes from the start of a contiguous tensor."""
        data = ctypes.create_string_buffer(size)
        self._ggml.ggml_backend_tensor_get(tensor, data, 0, size)
        return data.raw

    def _op(self, name: str, made: int | None) -> Tensor:
        tensor = Tensor(made)
        self._ops.append((name, tensor))
        return tensor


def usable_threads(cores: int) -> int:
    """Return how many threads a CPU device shall use: at least two, so that work is divided, and no more than eight."""
    return max(2, min(8, cores))


def search_path(bin_dir: Path) -> dict[str, str]:
    """Return the environment in which a program takes the libraries beside it, wherever it was built."""
    name = "PATH" if os.name == "nt" else "LD_LIBRARY_PATH"
    rest = os.environ.get(name)
    return {name: os.pathsep.join((str(bin_dir), *((rest,) if rest else ())))}
