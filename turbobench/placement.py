"""Proof of what ran where: reads the facts out of a program's log and judges them against what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from turbobench.kvtypes import FLOATS, KVPair
from turbobench.layer_types import as_logged

Placement = Literal["verified", "fallback", "unverified"]

_ROTATION_WIDTH = 64  # llama-kv-cache.cpp rotates heads that are a multiple of this
_CONTEXT = "constructing llama_context"
_SIZE = re.compile(
    r"llama_kv_cache: size =\s*(?P<mib>[\d.]+) MiB \(\s*(?P<cells>\d+) cells,\s*(?P<layers>\d+) layers,.*"
    r"K \((?P<type_k>[\w*+]*)\):.*V \((?P<type_v>[\w*+]*)\):"
)
_BUFFER = re.compile(r"llama_kv_cache:\s+(\S+) KV buffer size")
_ROTATION = re.compile(r"llama_kv_cache: attn_rot_([kv]) = (\d)")
_FLASH = re.compile(r"llama_context: flash_attn\s+= (\w+)")
# Prompt and generation have graphs of their own, and where these differ the line gives both: "splits = 2 / 74".
_SPLITS = re.compile(r"sched_reserve: graph[^:]*: nodes = [^,]+, splits = (\d+)(?: / (\d+))?")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_DEVICE = re.compile(
    r"^(?:\s*Device \d+: (?=.+, VMM: )|ggml_vulkan: \d+ = |ggml_metal_device_init: GPU name:\s+)(.+?)(?:, VMM: .*)?$",
    re.MULTILINE,
)
_BY_LAYER = re.compile(r"llama_kv_cache: types by layer:(.*)")
_LAYER = re.compile(r"(\d+):(\w+)/(\w+)")
_CENTERED = re.compile(r": K of \d+ layers is centred by ")
_CONVERTED = "no FlashAttention vector kernel compiled"
_FACT = re.compile(
    "|".join(
        (
            r"llama_kv_cache: |llama_context: flash_attn|sched_reserve: graph|layers to GPU",
            r"Device \d+: |ggml_vulkan: \d+ = |ggml_metal_device_init: GPU name: ",
            *(_CONTEXT, _CONVERTED, _CENTERED.pattern),
        )
    )
)
# What ggml calls the buffers of a backend's devices, before their number.
_BUFFERS = {"cuda": "CUDA", "hip": "ROCm", "metal": "MTL", "vulkan": "Vulkan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one llama_context really used. `kv_mib` is the whole K/V buffer, in `n_kv_layers` layers.

    `n_splits` are those of the graph with most of them: the scheduler splits a graph wherever the device changes.
    `offloaded` is (layers on the GPU, all layers), None where llama.cpp knows no GPU; `devices` are as the backend
    names them; `converted` is whether CUDA's vector attention had no kernel for the pair and made f16 copies;
    `centered` whether a mean was subtracted from K. `layer_types` are the types of each layer where a policy gave them,
    as the log lists them.
    """

    type_k: str
    type_v: str
    kv_mib: float
    kv_cells: int
    attn_rot_k: bool
    attn_rot_v: bool
    flash_attn: bool
    kv_buffers: tuple[str, ...]
    n_splits: int | None
    n_kv_layers: int = 0
    offloaded: tuple[int, int] | None = None
    devices: tuple[str, ...] = ()
    converted: bool = False
    centered: bool = False
    layer_types: str = ""


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
    loading: list[str] = []  # of the model, which its contexts share
    for line in lines:
        if _CONTEXT in line:
            contexts.append([*loading])
        if _OFFLOADED.search(line):
            loading = [kept for kept in loading if not _OFFLOADED.search(kept)]
        if _OFFLOADED.search(line) or _DEVICE.search(line):
            loading.append(line)
        contexts[-1].append(line)
    return [found for context in contexts if (found := _observe_context("\n".join(context))) is not None]


def judge(
    observed: Observed | None, pair: KVPair, *, backend: str, head_dims: tuple[int, int], flash_attn: bool = True
) -> Verdict:
    """Compare what ran with what was asked; `head_dims` are the model's K and V head sizes.

    A cache of another type or on another device, or flash attention other than asked, is a `fallback`; a fact that
    cannot be proven leaves it `unverified`.
    """
    if observed is None:
        return Verdict(placement="unverified", reason="the log shows no K/V cache")
    fallback = _other_attention(observed, flash_attn) or _fallback(observed, pair, backend)
    if fallback:
        return Verdict(placement="fallback", reason=fallback)
    doubt = _doubt(observed, pair, backend, head_dims)
    return Verdict(placement="unverified" if doubt else "verified", reason=doubt)


def _other_attention(observed: Observed, asked: bool) -> str:
    return "" if observed.flash_attn == asked else f"flash attention was {'on' if observed.flash_attn else 'off'}"


def _fallback(observed: Observed, pair: KVPair, backend: str) -> str:
    """Return what ran otherwise than asked, or nothing."""
    if observed.layer_types != (as_logged(pair.policy.by_layer) if pair.policy else ""):
        return f"the layers' types were {observed.layer_types or f'{observed.type_k}/{observed.type_v} in all'}"
    if pair.policy is None and (observed.type_k, observed.type_v) != pair.types:
        return f"the cache was {observed.type_k}/{observed.type_v}"
    if observed.centered != pair.center:
        return "K was centred" if observed.centered else "K was not centred"
    if backend != "cpu":
        return _left_device(observed, backend)
    # With only the CPU device in the build there is nothing to fall back to, and the graph is one split.
    if set(observed.kv_buffers) != {"CPU"} or observed.n_splits not in (None, 1):
        return f"K/V in {', '.join(observed.kv_buffers)}, {observed.n_splits} graph splits"
    return ""


def _left_device(observed: Observed, backend: str) -> str:
    """Return what a GPU build ran elsewhere, or nothing."""
    device = re.compile(_BUFFERS[backend] + r"\d+(?:_Private)?")  # Metal's, of a GPU with memory of its own
    elsewhere = [name for name in observed.kv_buffers if not device.fullmatch(name)]
    if elsewhere:
        return f"K/V in {', '.join(elsewhere)}"
    if observed.offloaded is not None and observed.offloaded[0] < observed.offloaded[1]:
        return f"{observed.offloaded[0]} of {observed.offloaded[1]} layers were on the GPU"
    if observed.converted:
        return "no attention kernel was compiled for the pair: K and V were converted to f16 at every step"
    # Attention that leaves the device takes the graph to the CPU and back, in every layer.
    if _more_splits(observed) >= 2 * observed.n_kv_layers > 0:
        return f"attention ran on the CPU: {_splits_text(observed)}"
    return ""


def _more_splits(observed: Observed) -> int:
    """Return how many splits the graph has beyond those it cannot do without.

    These are the embedding's rows, which llama.cpp always looks up on the CPU, and the layers of each device in turn.
    """
    return (observed.n_splits or 0) - 1 - len(observed.kv_buffers)


def _splits_text(observed: Observed) -> str:
    return (
        f"{observed.n_splits} graph splits over {observed.n_kv_layers} attention layers, "
        f"where {1 + len(observed.kv_buffers)} are needed"
    )


def _doubt(observed: Observed, pair: KVPair, backend: str, head_dims: tuple[int, int]) -> str:
    """Return what could not be proven, or nothing."""
    rotated = (observed.attn_rot_k, observed.attn_rot_v)
    expected = tuple(
        not pair.types_used(side) <= FLOATS and head_dim % _ROTATION_WIDTH == 0 and not pair.unrotated
        for side, head_dim in enumerate(head_dims)
    )
    if rotated != expected:
        return f"attn_rot_k/v was {rotated}, expected {expected}"
    if backend == "cpu":
        return ""
    if observed.offloaded is None or observed.n_splits is None:
        return "the log does not show which layers were on the GPU, or how its graph was split"
    return f"some operations left the device: {_splits_text(observed)}" if _more_splits(observed) > 0 else ""


def _observe_context(text: str) -> Observed | None:
    sizes = list(_SIZE.finditer(text))  # a model with sliding-window layers has two caches in one context
    if not sizes:
        return None
    layers = {
        int(il): (type_k, type_v) for said in _BY_LAYER.findall(text) for il, type_k, type_v in _LAYER.findall(said)
    }
    rotation = _ROTATION.findall(text)
    if layers:  # one of two caches may have no quantized layer, and no rotation
        rotation.sort(key=lambda found: found[1])
    rotated = dict(rotation)
    splits = [int(number) for numbers in _SPLITS.findall(text) for number in numbers if number]
    flash, offloaded = _FLASH.search(text), _OFFLOADED.search(text)
    return Observed(
        type_k="+".join(dict.fromkeys(size["type_k"] for size in sizes)),
        type_v="+".join(dict.fromkeys(size["type_v"] for size in sizes)),
        kv_mib=sum(float(size["mib"]) for size in sizes),
        kv_cells=max(int(size["cells"]) for size in sizes),
        attn_rot_k=rotated.get("k") == "1",
        attn_rot_v=rotated.get("v") == "1",
        flash_attn=flash is not None and flash[1] == "enabled",
        kv_buffers=tuple(dict.fromkeys(_BUFFER.findall(text))),
        n_splits=max(splits) if splits else None,
        n_kv_layers=sum(int(size["layers"]) for size in sizes),
        offloaded=(int(offloaded[1]), int(offloaded[2])) if offloaded else None,
        devices=tuple(_DEVICE.findall(text)),
        converted=_CONVERTED in text,
        centered=_CENTERED.search(text) is not None,
        layer_types=as_logged(layers),
    )
