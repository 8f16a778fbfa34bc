"""What each backend promises, and the cases that show it: one for each op and type, and for each pair and head size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from turbobench.codec.types import TURBO_NAMES, TurboName
from turbobench.conformance import attention, rows
from turbobench.conformance.finding import Finding, Tally
from turbobench.ggml import Device, UnsupportedError
from turbobench.kvtypes import KVPair

RowOp = Literal["SET_ROWS", "CPY to", "GET_ROWS", "CPY from", "NMSE"]
ROW_OPS: tuple[RowOp, ...] = ("SET_ROWS", "CPY to", "GET_ROWS", "CPY from", "NMSE")

# The types that every GPU has kernels for, in any pair; those that are the CPU's alone; and what Metal has.
_TYPES = ("f16", "q8_0", "q5_0", "q4_0", "turbo4", "turbo3")
_CPU_TYPES = ("bf16", "q5_1", "q4_1", "iq4_nl", "turbo3t")
_METAL_TYPES = ("f16", "q8_0", "turbo4", "turbo3")
# Head sizes of K and V. 576/512 is MLA's, whose caches turbo types are refused for.
_HEADS = ((64, 64), (128, 128), (192, 192), (192, 128), (256, 256), (512, 512))

_CHECKS: dict[RowOp, Callable[[Device, TurboName], Tally]] = {
    "SET_ROWS": rows.check_set_rows,
    "CPY to": rows.check_cpy_to,
    "GET_ROWS": rows.check_get_rows,
    "CPY from": rows.check_cpy_from,
    "NMSE": rows.check_nmse,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a backend must support; anything else it may refuse, and then that is noted.

    `heads` are head sizes of K and V.
    """

    row_ops: tuple[RowOp, ...]
    types: tuple[str, ...]
    heads: tuple[tuple[int, int], ...]


# CUDA has upstream's choice of head sizes: 192 only with V of 128.
PROMISES = {
    "cpu": Promise(row_ops=ROW_OPS, types=(*_TYPES, *_CPU_TYPES), heads=_HEADS),
    "cuda": Promise(row_ops=ROW_OPS, types=_TYPES, heads=((64, 64), (128, 128), (192, 128), (256, 256), (512, 512))),
    "hip": Promise(row_ops=ROW_OPS, types=_TYPES, heads=((64, 64), (128, 128), (256, 256))),
    "vulkan": Promise(row_ops=ROW_OPS, types=_TYPES, heads=((64, 64), (128, 128), (192, 192), (256, 256))),
    "metal": Promise(
        row_ops=("SET_ROWS", "GET_ROWS", "CPY from", "NMSE"),
        types=_METAL_TYPES,
        heads=((64, 64), (128, 128), (192, 192), (256, 256), (512, 512)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCase:
    """One op on cache rows of one of our types."""

    op: RowOp
    type_name: TurboName

    @property
    def id(self) -> str:
        return f"{self.op} {self.type_name}"

    @property
    def group(self) -> str:
        return "rows"

    def promised(self, promise: Promise) -> bool:
        return self.op in promise.row_ops and self.type_name in promise.types

    def check(self, device: Device) -> Tally:
        return _CHECKS[self.op](device, self.type_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """FLASH_ATTN_EXT of a pair at one head size."""

    pair: KVPair
    heads: tuple[int, int]

    @property
    def id(self) -> str:
        size = str(self.heads[0]) if self.heads[0] == self.heads[1] else f"{self.heads[0]}/{self.heads[1]}"
        return f"FLASH_ATTN_EXT {self.pair} {size}"

    @property
    def group(self) -> str:
        return f"attention, K of {self.pair.type_k}"

    def promised(self, promise: Promise) -> bool:
        return set(self.pair.types) <= set(promise.types) and self.heads in promise.heads

    def check(self, device: Device) -> Tally:
        return attention.check(device, self.pair, self.heads)


Case = RowCase | AttentionCase


def all_cases() -> list[Case]:
    """Return every case, the quickest and most telling first."""
    found: list[Case] = [RowCase(op=op, type_name=name) for name in TURBO_NAMES for op in ROW_OPS]
    pairs = [KVPair(k, v) for k in _TYPES for v in _TYPES]
    for name in _CPU_TYPES:
        pairs += [KVPair(name, name), KVPair(name, "turbo4"), KVPair("turbo3", name)]
    return [*found, *(AttentionCase(pair=pair, heads=heads) for pair in pairs for heads in _HEADS)]


def run_case(case: Case, device: Device, backend: str) -> Finding:
    """Run one case on a device; a refusal is a failure where the backend promises the case."""
    try:
        return case.check(device).finding(case.id)
    except UnsupportedError as refusal:
        if case.promised(PROMISES[backend]):
            return Finding(case=case.id, outcome="failed", reason=f"{refusal}, and the design says that it does")
        return Finding(case=case.id, outcome="unsupported", reason=str(refusal))
    except (RuntimeError, MemoryError) as failure:
        return Finding(case=case.id, outcome="failed", reason=str(failure))
