"""What must hold for quality figures to be believed: decode equals prefill, and no two types gave the same. Pure.

The report shows it, and `run` and `report` end with an error where it does not hold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from turbobench.kvtypes import KVPair
from turbobench.tidy import Row

# A run compares a dozen pairs, and sound kernels differ by about one: what is rounded otherwise early in the model
# flips codes of the cache in later layers, and so draws the error of each token again.
_STANDARD_ERRORS = 3.0
# The activation rounding of quantized weights shows .004. A floor above this is a fault that f16 shares.
_LARGEST_FLOOR = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class PathComparison:
    """Mean KLD of a pair through both paths on the same chunks, in nats, and by how much they may differ."""

    name: str
    n_ctx: int
    chunks: int
    prefill: float
    decode: float
    allowed: float

    @property
    def agrees(self) -> bool:
        return abs(self.decode - self.prefill) <= self.allowed


def allowed_difference(err: float, floor: float) -> float:
    """Return by how much the KLD of two paths may differ: three standard errors, and what they do to f16 itself."""
    return _STANDARD_ERRORS * err + min(max(floor, 0.0), _LARGEST_FLOOR)


def compare_paths(rows: Sequence[Row]) -> list[PathComparison]:
    """Return the comparison for each pair that was measured through both paths, in the order of the rows."""
    decode = [
        row for row in rows if row["test"] == "kld" and row["path"] == "decode" and row.get("kld_prefill") is not None
    ]
    floors = {_setting(row): row["kld_mean"] for row in decode if row["kind"] == "floor"}
    return [
        PathComparison(
            name=KVPair.of(row).short,
            n_ctx=row["n_ctx"],
            chunks=row["chunks"],
            prefill=row["kld_prefill"],
            decode=row["kld_mean"],
            allowed=allowed_difference(_error(row), floors.get(_setting(row), 0.0)),
        )
        for row in decode
        if row["kind"] == "quality"
    ]


def twins(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return pairs of cache types that gave the same KLD for every token: one of each was not in use."""
    named: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for row in rows:
        if row["test"] == "kld" and row.get("fingerprint"):
            name = KVPair.of(row).short
            group = named[(*_setting(row), row["path"], row["chunks"], row["fingerprint"])]
            if name not in group:  # f16 twice is no news
                group.append(name)
    return [(group[0], other) for group in named.values() for other in group[1:]]


def faults(rows: Sequence[Row]) -> list[str]:
    """Return what the rows show to be wrong, a sentence each; nothing if they can be believed."""
    return [
        *(
            f"{found.name} at {found.n_ctx} tokens has KLD {found.decode:.5f} through the decode kernels and "
            f"{found.prefill:.5f} through prefill, where {found.allowed:.5f} of difference is error"
            for found in compare_paths(rows)
            if not found.agrees
        ),
        *(
            f"{one} and {other} gave the same KLD for every token: one of them was not in use"
            for one, other in twins(rows)
        ),
    ]


def _error(row: Row) -> float:
    """Return the standard error of the difference, by pairs of tokens where the record has them."""
    paired: float | None = row.get("kld_paths_err")
    return math.hypot(row["kld_prefill_err"], row["kld_err"]) if paired is None else paired


def _setting(row: Row) -> tuple[object, ...]:
    return (row["build_id"], row["device"], row["model_sha256"], row["corpus_sha256"], row["n_ctx"], row["weights"])
