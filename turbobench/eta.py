"""How long the rest of a sweep takes: a cost model fitted from the jobs that are finished. Pure.

A job's wall time is about a fixed cost, plus tokens, plus tokens times the context they attend to. The three weights of
each kind start from those of a reference machine and model, and move to this machine's as jobs end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

JobKind = Literal["speed-prefill", "speed-decode", "quality-prefill", "quality-decode", "nmse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What was measured once: seconds for a job, for each token, and for each token and 1000 tokens of its context."""

    n_params: int
    weights: dict[JobKind, tuple[float, float, float]]


# Two cores, SmolLM2-135M.
CPU_REFERENCE = Reference(
    n_params=134_515_008,
    weights={
        "speed-prefill": (1.0, 0.006, 0.002),
        "speed-decode": (0.0, 0.016, 0.008),
        "quality-prefill": (2.0, 0.006, 0.002),
        "quality-decode": (2.0, 0.020, 0.008),
        "nmse": (2.0, 0.0, 0.0),
    },
)
# One NVIDIA H200, the shape of Qwen3-8B with Q4_0 weights and f16 K/V in the unpatched llama.cpp.
GPU_REFERENCE = Reference(
    n_params=8_190_735_360,
    weights={
        "speed-prefill": (4.0, 1.0e-4, 2.3e-6),
        "speed-decode": (0.0, 3.0e-3, 6.5e-5),
        "quality-prefill": (6.0, 1.0e-4, 2.3e-6),
        "quality-decode": (6.0, 3.0e-3, 6.5e-5),
        "nmse": (2.0, 0.0, 0.0),
    },
)
# How strongly the prior holds each weight, against 1 for a finished job.
_PRIOR_WEIGHT = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Tokens that a job evaluates, and the sum over them of the tokens each attends to."""

    kind: JobKind
    tokens: float
    token_contexts: float

    @classmethod
    def of(cls, kind: JobKind, spans: Iterable[tuple[int, int]]) -> Work:
        """Add up spans of (first position, tokens)."""
        tokens = contexts = 0.0
        for start, count in spans:
            tokens += count
            contexts += count * (start + count / 2)
        return cls(kind=kind, tokens=tokens, token_contexts=contexts)


class EtaModel:
    """Predicts wall times of a model of `n_params`, as many as the reference's if None."""

    def __init__(self, reference: Reference = CPU_REFERENCE, *, n_params: int | None = None) -> None:
        scale = 1.0 if n_params is None else max(n_params, 1) / reference.n_params
        self._kinds = list(reference.weights)
        self._prior = np.array([weight * scale for kind in self._kinds for weight in reference.weights[kind]])
        self._rows: list[npt.NDArray[np.float64]] = []
        self._walls: list[float] = []
        self._weights = self._prior

    def observe(self, works: Iterable[Work], wall_s: float) -> None:
        """Learn from a finished job that did `works` one after the other."""
        if wall_s <= 0:
            return
        self._rows.append(self._features(works))
        self._walls.append(wall_s)
        self._fit()

    def predict(self, works: Iterable[Work]) -> float:
        """Return the expected wall time in seconds, never less than a tenth of a second."""
        return max(0.1, float(self._features(works) @ self._weights))

    def _features(self, works: Iterable[Work]) -> npt.NDArray[np.float64]:
        row = np.zeros(3 * len(self._kinds))
        for work in works:
            at = 3 * self._kinds.index(work.kind)
            row[at : at + 3] += (1.0, work.tokens, work.token_contexts / 1000)
        return row

    def _fit(self) -> None:
        """Least squares of relative errors, with the prior as one pseudo-job for each weight (ridge)."""
        walls = np.array(self._walls)
        jobs = np.array(self._rows) / walls[:, None]
        used = self._prior > 0
        # In units of the prior, so that one strength fits all weights; the median speed-up moves the prior first.
        ratio = float(np.median(walls / np.maximum(np.array(self._rows) @ self._prior, 1e-9)))
        prior = self._prior[used] * ratio
        system = np.vstack([jobs[:, used] * prior, _PRIOR_WEIGHT * np.eye(int(used.sum()))])
        target = np.concatenate([np.ones(len(walls)), np.full(int(used.sum()), _PRIOR_WEIGHT)])
        self._weights = np.zeros_like(self._prior)
        self._weights[used] = _non_negative_least_squares(system, target) * prior


def _non_negative_least_squares(
    system: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Drop what comes out negative and solve again, until nothing does: no work takes negative time."""
    solution = np.zeros(system.shape[1])
    kept = np.arange(system.shape[1])
    while kept.size:
        part = np.linalg.lstsq(system[:, kept], target, rcond=None)[0]
        if (part >= 0).all():
            solution[kept] = part
            break
        kept = kept[part >= 0]
    return solution
