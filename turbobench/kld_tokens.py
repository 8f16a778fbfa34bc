"""The KLD of every scored token, as the patched llama-perplexity writes it: by chunk, by position, as a fingerprint.

llama-perplexity scores the second half of each window, so a window of n_ctx tells of positions n_ctx/2 to n_ctx - 2;
shorter positions need a shorter window.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from turbobench.errors import MeasurementError

_BUCKETS = 4  # of a window: positions at n_ctx/2 and at n_ctx differ by an octave, which four parts resolve
_RUN = 32  # tokens; by runs of them, and not by tokens, two paths are compared: records stay small
_PRINTED = 2e-6  # the tool prints six decimals, and adds up in another order


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Mean KLD in nats and its standard error over the `n` scored tokens of one chunk, or of one range of positions.

    `pos_lo` and `pos_hi` are the first and last position in the window.
    """

    pos_lo: int
    pos_hi: int
    n: int
    kld_mean: float
    kld_err: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKld:
    """What the values of single tokens tell. `fingerprint` is equal only for equal logits, token by token.

    `runs` are the means of 32 tokens after one another (the last of a chunk may have fewer), by chunk.
    """

    fingerprint: str
    chunks: tuple[Part, ...]
    buckets: tuple[Part, ...]
    runs: tuple[tuple[float, ...], ...]


def read(path: Path, *, n_ctx: int, chunks: int, printed_mean: float) -> TokenKld:
    """Read a file of `--kl-divergence-tokens`.

    Raises MeasurementError unless it holds a finite value for each scored token and their mean is the printed one.
    """
    try:
        values = np.fromfile(path, dtype="<f4")
    except OSError as failure:
        raise MeasurementError(
            f"llama-perplexity wrote no KLD of single tokens: {failure}", "its log says why"
        ) from None
    per_chunk = n_ctx - 1 - n_ctx // 2
    if values.size != chunks * per_chunk:
        raise MeasurementError(
            f"llama-perplexity wrote the KLD of {values.size} tokens, not of {chunks} × {per_chunk}",
            "the base or the text has fewer chunks; its log says more",
        )
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values))[0])
        raise MeasurementError(
            f"the KLD of token {where % per_chunk + n_ctx // 2} of chunk {where // per_chunk + 1} is {values[where]}",
            "the cache type or the build gives NaN logits there",
        )
    mean = float(values.mean(dtype=np.float64))
    if abs(mean - printed_mean) > _PRINTED + 1e-4 * abs(printed_mean):
        raise MeasurementError(
            f"the KLD of single tokens has the mean {mean:.6f}, and the log says {printed_mean:.6f}",
            "run it again; if it stays, the build does not fit this version of turbobench",
        )
    table = values.reshape(chunks, per_chunk).astype(np.float64)
    edges = [round(i * per_chunk / _BUCKETS) for i in range(_BUCKETS + 1)]
    return TokenKld(
        fingerprint=hashlib.sha256(values.tobytes()).hexdigest()[:16],
        chunks=tuple(_part(row, n_ctx // 2, per_chunk) for row in table),
        buckets=tuple(_part(table[:, lo:hi], n_ctx // 2 + lo, hi - lo) for lo, hi in itertools.pairwise(edges)),
        runs=tuple(
            tuple(round(float(row[at : at + _RUN].mean()), 7) for at in range(0, per_chunk, _RUN)) for row in table
        ),
    )


def pooled(parts: list[dict[str, Any]]) -> tuple[float, float]:
    """Return mean and standard error over all tokens of several parts, given as a record holds them."""
    n = sum(part["n"] for part in parts)
    mean = sum(part["n"] * part["kld_mean"] for part in parts) / n
    # Of each part the sum of squared deviations from the common mean.
    squares = sum(
        part["n"] * ((part["n"] - 1) * part["kld_err"] ** 2 + (part["kld_mean"] - mean) ** 2) for part in parts
    )
    return mean, float(np.sqrt(squares / (n * max(n - 1, 1))))


def difference_error(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the difference of two means of the same tokens, given as `TokenKld.runs` has them.

    What is a hard token for one path is one for the other, so this is less than their errors together.
    """
    differences = [a - b for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)]
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def _part(values: npt.NDArray[np.float64], pos_lo: int, width: int) -> Part:
    n = values.size
    return Part(
        pos_lo=pos_lo,
        pos_hi=pos_lo + width - 1,
        n=n,
        kld_mean=float(values.mean()),
        kld_err=float(values.std() / np.sqrt(max(n - 1, 1))),
    )
