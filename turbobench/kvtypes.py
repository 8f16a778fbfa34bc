"""The KV-cache types the project knows: block size, bytes per block, and pairs of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbobench.errors import ConfigError
from turbobench.layer_types import LayerTypes


@dataclass(frozen=True, slots=True, kw_only=True)
class KVType:
    """A ggml cache type. `block` is values per block, `block_bytes` bytes per block; `ggml_id` its enum value.

    `backends` are those that have kernels for it, None if all have (or llama.cpp's own rule which).
    """

    name: str
    block: int
    block_bytes: int
    ggml_id: int
    backends: frozenset[str] | None = None

    @property
    def bpv(self) -> float:
        """Bits per value, scale included."""
        return 8 * self.block_bytes / self.block

    @property
    def is_turbo(self) -> bool:
        return self.name.startswith("turbo")

    def runs_on(self, backend: str) -> bool:
        return self.backends is None or backend in self.backends

    @property
    def places(self) -> str:
        """The names of `backends`, for a message."""
        return ", ".join(sorted(self.backends or ()))


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
        KVType(name="turbo3t", block=64, block_bytes=26, ggml_id=98, backends=frozenset({"cpu"})),
    )
}


FLOATS = frozenset({"f32", "f16", "bf16"})
_CENTER = "+c"
_UNROTATED = ":unrotated"


@dataclass(frozen=True, slots=True, order=True)
class KVPair:
    """Cache types of K and V, and what is done to the values before: written `turbo4+c/turbo3`, `q4_0/q8_0:unrotated`.

    `center`: a mean, one vector for each layer and KV head, is subtracted from K (a file that `--kv-center` names).
    `unrotated`: llama.cpp's rotation of quantized K and V is switched off, for both at once.
    `policy`: each layer has types of its own (a file that `--kv-types` names); `type_k` and `type_v` are then a summary
    of them, such as `12*turbo3+18*turbo4`. Such a pair is written `policy:NAME`, `policy+c:NAME`.
    """

    type_k: str
    type_v: str
    center: bool = False
    unrotated: bool = False
    policy: LayerTypes | None = None

    @classmethod
    def parse(cls, text: str) -> KVPair:
        """Read `turbo4` (both) or `q8_0/turbo4` (K/V), with the marks `+c` after K and `:unrotated` after the pair.

        A type alone with `+c` centres K and is the type of both. Raises ConfigError, with a suggestion for an unknown
        type, also where a mark has no meaning.
        """
        types, colon, mark = text.strip().partition(":")
        if colon and colon + mark.strip() != _UNROTATED:
            raise ConfigError(
                f"unknown mark ':{mark}' in {text!r}", f"the only one is {_UNROTATED!r}, as in q4_0:unrotated"
            )
        first, slash, second = (part.strip() for part in types.partition("/"))
        name_k = first.removesuffix(_CENTER).rstrip()
        if second.endswith(_CENTER):
            raise ConfigError(f"{text!r} centres V, and only K can be centred", "write +c after the type of K alone")
        pair = cls(
            _known(name_k),
            _known(second if slash else name_k),
            center=first.endswith(_CENTER),
            unrotated=bool(colon),
        )
        pair._check_marks()
        return pair

    @classmethod
    def by_layer(cls, policy: LayerTypes, *, center: bool = False) -> KVPair:
        """Return the pair of a policy; ConfigError for a type that is not known, or a center that serves no layer."""
        for name in (*policy.types(0), *policy.types(1)):
            _known(name)
        pair = cls(policy.summary(0), policy.summary(1), center=center, policy=policy)
        pair._check_marks()
        return pair

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> KVPair:
        """Return the pair of a record's cell or of a tidy row; the inverse of `fields`."""
        return cls(
            fields["type_k"],
            fields["type_v"],
            center=bool(fields.get("center")),
            unrotated=bool(fields.get("unrotated")),
            policy=LayerTypes.of(fields["policy"], fields["layer_types"]) if fields.get("policy") else None,
        )

    def fields(self) -> dict[str, str | bool]:
        """Return the JSON values that stand for the pair; a property it does not have is left out."""
        marks = {name: True for name in ("center", "unrotated") if getattr(self, name)}
        policy = {"policy": self.policy.name, "layer_types": self.policy.line} if self.policy else {}
        return {"type_k": self.type_k, "type_v": self.type_v, **marks, **policy}

    @property
    def types(self) -> tuple[str, str]:
        """The types alone, which is all that a tool's output tells."""
        return self.type_k, self.type_v

    @property
    def bpv(self) -> float:
        """Mean bits per cached value of K and V (for equal K and V widths); a centre costs none per token.

        That of a policy counts what each layer stores for a token.
        """
        if self.policy is not None:
            return (
                self.policy.bits_per_token({name: kind.bpv for name, kind in KV_TYPES.items()}) / self.policy.n_values
            )
        return (KV_TYPES[self.type_k].bpv + KV_TYPES[self.type_v].bpv) / 2

    @property
    def uses_turbo(self) -> bool:
        return any(KV_TYPES[name].is_turbo for side in (0, 1) for name in self.types_used(side))

    def types_used(self, side: int) -> frozenset[str]:
        """Return the types that K (side 0) or V (side 1) has in any layer."""
        return frozenset({self.types[side]} if self.policy is None else self.policy.types(side))

    def types_of(self, layer: int) -> tuple[str, str]:
        """Return the types of K and V in one layer; KeyError if a policy has none for it."""
        return self.types if self.policy is None else self.policy.by_layer[layer]

    @property
    def short(self) -> str:
        """The shortest text that `parse` reads as this pair: `turbo4`, `turbo4+c`, `q4_0:unrotated`."""
        if self.policy is not None or self.type_k != self.type_v:
            return str(self)
        return self.type_k + _CENTER * self.center + _UNROTATED * self.unrotated

    def argv(self, kv_center: Path | None, kv_types: Path | None = None) -> list[str]:
        """Return the options that every llama.cpp tool takes for the pair.

        `kv_center` is the file of a centred pair, `kv_types` that of one with a policy.
        """
        if self.policy is not None:
            if kv_types is None:
                raise ValueError(f"{self} needs the file of its types")
            options = ["--kv-types", str(kv_types)]
        else:
            options = ["-ctk", self.type_k, "-ctv", self.type_v]
        if not self.center:
            return options
        if kv_center is None:
            raise ValueError(f"{self} needs a file of K's means")
        return [*options, "--kv-center", str(kv_center)]

    @property
    def env(self) -> dict[str, str]:
        """The variable that rules rotation, set also where it is on: the user's own must not decide."""
        return {"LLAMA_ATTN_ROT_DISABLE": str(int(self.unrotated))}

    def __str__(self) -> str:
        if self.policy is not None:
            return f"policy{_CENTER * self.center}:{self.policy.name}"
        return f"{self.type_k}{_CENTER * self.center}/{self.type_v}{_UNROTATED * self.unrotated}"

    def _check_marks(self) -> None:
        if self.center and self.types_used(0) <= FLOATS:
            raise ConfigError(f"{self} centres a K of {self.type_k}, which has no error to lose", "leave +c out")
        if self.unrotated and {self.type_k, self.type_v} <= FLOATS:
            raise ConfigError(f"{self}: only quantized types are rotated", f"leave {_UNROTATED} out")
        if self.unrotated and self.uses_turbo:
            raise ConfigError(f"{self}: turbo codes are made for rotated values", f"leave {_UNROTATED} out")


def _known(name: str) -> str:
    if name in KV_TYPES:
        return name
    near = difflib.get_close_matches(name, KV_TYPES, n=1)
    raise ConfigError(
        f"unknown cache type {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"known types: {', '.join(KV_TYPES)}",
    )
