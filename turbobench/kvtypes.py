"""The KV-cache types the project knows: block size, bytes per block, and pairs of them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from turbobench.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KVType:
    """A ggml cache type. `block` is values per block, `block_bytes` bytes per block; `ggml_id` its enum value."""

    name: str
    block: int
    block_bytes: int
    ggml_id: int

    @property
    def bpv(self) -> float:
        """Bits per value, scale included."""
        return 8 * self.block_bytes / self.block

    @property
    def is_turbo(self) -> bool:
        return self.name.startswith("turbo")


KV_TYPES: dict[str, KVType] = {
    t.name: t
    for t in (
        KVType(name="f32", block=1, block_bytes=4, ggml_id=0),
        KVType(name="f16", block=1, block_bytes=2, ggml_id=1),
        KVType(name="bf16", block=1, block_bytes=2, ggml_id=30),
        KVType(name="q8_0", block=32, block_bytes=34, ggml_id=8),
        KVType(name="q5_1", block=32, block_bytes=24, ggml_id=7),
        KVType(name="q5_0", block=32, block_bytes=22, ggml_id=6),
        KVType(name="q4_1", block=32, block_bytes=20, ggml_id=3),
        KVType(name="q4_0", block=32, block_bytes=18, ggml_id=2),
        KVType(name="iq4_nl", block=32, block_bytes=18, ggml_id=20),
        KVType(name="turbo4", block=64, block_bytes=34, ggml_id=97),
        KVType(name="turbo3", block=64, block_bytes=26, ggml_id=96),
    )
}


@dataclass(frozen=True, slots=True, order=True)
class KVPair:
    """Cache types of K and V, written `q8_0/turbo4`."""

    type_k: str
    type_v: str

    @classmethod
    def parse(cls, text: str) -> KVPair:
        """Read `turbo4` (both) or `q8_0/turbo4` (K/V); raises ConfigError with a suggestion for an unknown type."""
        first, slash, second = (part.strip() for part in text.partition("/"))
        return cls(_known(first), _known(second if slash else first))

    @property
    def bpv(self) -> float:
        """Mean bits per cached value of K and V (for equal K and V widths)."""
        return (KV_TYPES[self.type_k].bpv + KV_TYPES[self.type_v].bpv) / 2

    @property
    def uses_turbo(self) -> bool:
        return KV_TYPES[self.type_k].is_turbo or KV_TYPES[self.type_v].is_turbo

    def __str__(self) -> str:
        return f"{self.type_k}/{self.type_v}"


def _known(name: str) -> str:
    if name in KV_TYPES:
        return name
    near = difflib.get_close_matches(name, KV_TYPES, n=1)
    raise ConfigError(
        f"unknown cache type {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"known types: {', '.join(KV_TYPES)}",
    )
