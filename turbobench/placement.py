"""Proof of what ran where: reads the facts out of a program's log and judges them against what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from turbobench.kvtypes import KVPair

Placement = Literal["verified", "fallback", "unverified"]

_FLOATS = frozenset({"f32", "f16", "bf16"})
_ROTATION_WIDTH = 64  # llama-kv-cache.cpp rotates heads that are a multiple of this
_CONTEXT = "constructing llama_context"
_SIZE = re.compile(
    r"llama_kv_cache: size =\s*([\d.]+) MiB \(\s*(\d+) cells,.*K \((\w+)\):\s*([\d.]+) MiB, V \((\w+)\):\s*([\d.]+) MiB"
)
_BUFFER = re.compile(r"llama_kv_cache:\s+(\S+) KV buffer size")
_ROTATION = re.compile(r"llama_kv_cache: attn_rot_([kv]) = (\d)")
_FLASH = re.compile(r"llama_context: flash_attn\s+= (\w+)")
_SPLITS = re.compile(r"sched_reserve: graph: nodes = \d+, splits = (\d+)")
_FACT = re.compile(r"llama_kv_cache: |llama_context: flash_attn|sched_reserve: graph: |" + _CONTEXT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one llama_context really used. `kv_mib` is the whole K/V buffer; `n_splits` those of its largest graph."""

    type_k: str
    type_v: str
    kv_mib: float
    kv_cells: int
    attn_rot_k: bool
    attn_rot_v: bool
    flash_attn: bool
    kv_buffers: tuple[str, ...]
    n_splits: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a cell ran as asked; `reason` is empty for `verified`."""

    placement: Placement
    reason: str = ""


def is_fact(line: str) -> bool:
    """Return whether `observe` would read anything from this line of a log."""
    return _FACT.search(line) is not None


def observe(lines: Iterable[str]) -> list[Observed]:
    """Return one record for each llama_context that the log shows with a K/V cache, in order."""
    contexts: list[list[str]] = [[]]
    for line in lines:
        if _CONTEXT in line:
            contexts.append([])
        contexts[-1].append(line)
    return [found for context in contexts if (found := _observe_context("\n".join(context))) is not None]


def judge(observed: Observed | None, pair: KVPair, *, backend: str, head_dims: tuple[int, int]) -> Verdict:
    """Compare what ran with what was asked; `head_dims` are the model's K and V head sizes.

    A cache of another type, on another device or without flash attention is a `fallback`; a fact that cannot be proven
    leaves it `unverified`.
    """
    if observed is None:
        return Verdict(placement="unverified", reason="the log shows no K/V cache")
    fallback = _fallback(observed, pair, backend)
    if fallback:
        return Verdict(placement="fallback", reason=fallback)
    doubt = _doubt(observed, pair, backend, head_dims)
    return Verdict(placement="unverified" if doubt else "verified", reason=doubt)


def _fallback(observed: Observed, pair: KVPair, backend: str) -> str:
    """Return what ran otherwise than asked, or nothing."""
    if (observed.type_k, observed.type_v) != (pair.type_k, pair.type_v):
        return f"the cache was {observed.type_k}/{observed.type_v}"
    if not observed.flash_attn:
        return "flash attention was off"
    # With only the CPU device in the build there is nothing to fall back to, and the graph is one split.
    if backend == "cpu" and (set(observed.kv_buffers) != {"CPU"} or observed.n_splits not in (None, 1)):
        return f"K/V in {', '.join(observed.kv_buffers)}, {observed.n_splits} graph splits"
    return ""


def _doubt(observed: Observed, pair: KVPair, backend: str, head_dims: tuple[int, int]) -> str:
    """Return what could not be proven, or nothing."""
    rotated = (observed.attn_rot_k, observed.attn_rot_v)
    expected = tuple(
        name not in _FLOATS and head_dim % _ROTATION_WIDTH == 0
        for name, head_dim in zip((pair.type_k, pair.type_v), head_dims, strict=True)
    )
    if rotated != expected:
        return f"attn_rot_k/v was {rotated}, expected {expected}"
    return "" if backend == "cpu" else f"where attention ran is not proven on {backend} yet"


def _observe_context(text: str) -> Observed | None:
    sizes = _SIZE.findall(text)  # a model with sliding-window layers has two caches in one context
    if not sizes:
        return None
    rotation = dict(_ROTATION.findall(text))
    splits = [int(number) for number in _SPLITS.findall(text)]
    flash = _FLASH.search(text)
    return Observed(
        type_k="+".join(dict.fromkeys(size[2] for size in sizes)),
        type_v="+".join(dict.fromkeys(size[4] for size in sizes)),
        kv_mib=sum(float(size[0]) for size in sizes),
        kv_cells=max(int(size[1]) for size in sizes),
        attn_rot_k=rotation.get("k") == "1",
        attn_rot_v=rotation.get("v") == "1",
        flash_attn=flash is not None and flash[1] == "enabled",
        kv_buffers=tuple(dict.fromkeys(_BUFFER.findall(text))),
        n_splits=max(splits) if splits else None,
    )
