"""The header of a GGUF file: metadata, tensor list, and whether the file holds all the bytes it promises.

Written out here because the gguf package's reader makes an array object of every token: 5 s for a vocabulary of
49k, where this takes a tenth of one. Format: docs/gguf.md in ggml.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from turbobench.errors import ModelError

_MAGIC = b"GGUF"
_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_AGAIN = "download it again, or give another file with -m"


@dataclass(frozen=True, slots=True)
class StringArray:
    """Stands for an array of strings, whose contents are skipped."""

    count: int


Value: TypeAlias = int | float | bool | str | tuple[int | float | bool, ...] | StringArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One entry of the tensor list; `offset` counts from the start of the data section, `type_id` is ggml's."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int

    @property
    def n_elements(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product

    @property
    def n_bytes(self) -> int:
        """Size of the data; 0 for a type that this version of the gguf package does not know."""
        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self.type_id)]
        except (ValueError, KeyError):
            return 0
        return self.n_elements * block_bytes // block


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> Header:
    """Read the header; raises ModelError if the file is missing, not GGUF, malformed, or ends too early."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ModelError(f"{path} is a folder", "give the .gguf file in it")
        with path.open("rb") as handle:
            start = handle.read(8)
            _check_start(path, start, size)
            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(path, data, size)
    except FileNotFoundError as failure:
        raise ModelError(f"there is no model file {path}", "check the path given with -m") from failure
    except OSError as failure:
        raise ModelError(f"{path} cannot be read: {failure.strerror}", "check its permissions") from failure


def _check_start(path: Path, start: bytes, size: int) -> None:
    if size == 0:
        raise ModelError(f"{path} is empty", _AGAIN)
    if start[:4] != _MAGIC:
        hint = "it is a Git LFS pointer; run 'git lfs pull'" if start == b"version " else "give a .gguf model with -m"
        raise ModelError(f"{path} is not a GGUF file (it starts with {start[:4]!r})", hint)
    if len(start) < 8:
        raise _truncated(path, size)
    version = struct.unpack("<I", start[4:])[0]
    if version not in (2, 3):
        raise ModelError(
            f"{path} is GGUF version {version}; versions 2 and 3 (little-endian) are supported",
            "convert it with the convert_hf_to_gguf.py of a recent llama.cpp",
        )


def _parse(path: Path, data: mmap.mmap, size: int) -> Header:
    cursor = _Cursor(data, 8)
    try:
        n_tensors, n_metadata = cursor.take("Q"), cursor.take("Q")
        metadata = dict(_entry(cursor) for _ in range(n_metadata))
        tensors = tuple(_tensor(cursor) for _ in range(n_tensors))
    except struct.error as failure:
        raise _truncated(path, size) from failure
    except (_MalformedError, UnicodeDecodeError, OverflowError) as failure:
        raise ModelError(f"{path} is damaged: {failure}", _AGAIN) from failure
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ModelError(f"{path} is damaged: alignment {alignment}", _AGAIN)
    start = -(-cursor.offset // alignment) * alignment
    needed = max((start + tensor.offset + tensor.n_bytes for tensor in tensors), default=0)
    if needed > size:
        raise _truncated(path, size, needed)
    return Header(metadata=metadata, tensors=tensors)


def _truncated(path: Path, size: int, needed: int | None = None) -> ModelError:
    promised = f"its tensors need {needed}" if needed is not None else "its header is longer"
    return ModelError(f"{path} is truncated: it has {size} bytes, {promised}", _AGAIN)


class _MalformedError(Exception):
    """A value that no GGUF writer produces."""


@dataclass(slots=True)
class _Cursor:
    data: mmap.mmap
    offset: int

    def take(self, code: str) -> int:
        """Read one little-endian number; struct.error past the end."""
        value: int = struct.unpack_from("<" + code, self.data, self.offset)[0]
        self.offset += struct.calcsize(code)
        return value

    def text(self) -> str:
        length = self.skip_text()
        return self.data[self.offset - length : self.offset].decode("utf-8", errors="replace")

    def skip_text(self) -> int:
        length = self.take("Q")
        self.offset += length
        if self.offset > len(self.data):
            raise struct.error
        return length


def _entry(cursor: _Cursor) -> tuple[str, Value]:
    return cursor.text(), _value(cursor, cursor.take("I"))


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        return _array(cursor, cursor.take("I"), cursor.take("Q"))
    if kind not in _SCALARS:
        raise _MalformedError(f"metadata of unknown kind {kind}")
    return cursor.take(_SCALARS[kind])


def _array(cursor: _Cursor, kind: int, count: int) -> Value:
    if kind == _STRING:
        skip: Callable[[], int] = cursor.skip_text
        for _ in range(count):
            skip()
        return StringArray(count)
    if kind not in _SCALARS:
        raise _MalformedError(f"array of unknown kind {kind}")
    if count * struct.calcsize(_SCALARS[kind]) > len(cursor.data):
        raise struct.error
    values: tuple[int | float | bool, ...] = struct.unpack_from(f"<{count}{_SCALARS[kind]}", cursor.data, cursor.offset)
    cursor.offset += count * struct.calcsize(_SCALARS[kind])
    return values


def _tensor(cursor: _Cursor) -> Tensor:
    name = cursor.text()
    n_dims = cursor.take("I")
    if n_dims > 8:
        raise _MalformedError(f"tensor {name!r} of {n_dims} dimensions")
    shape = tuple(cursor.take("Q") for _ in range(n_dims))
    return Tensor(name=name, shape=shape, type_id=cursor.take("I"), offset=cursor.take("Q"))
