"""How a cell ended: measured, failed or skipped, each with what the table and the next step need."""

from __future__ import annotations

from dataclasses import dataclass

from turbobench.kld_tokens import TokenKld
from turbobench.placement import Observed, Verdict
from turbobench.programs.perplexity import QualityStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Wall times of the repetitions of one test in one process."""

    n_tokens: int
    n_threads: int
    samples_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """Plain perplexity with its standard error."""

    ppl: float
    ppl_err: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Nmse:
    """Sum of squared errors over sum of squares, after quantizing and dequantizing by the build's own code."""

    nmse: float
    n_values: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """PPL and KLD against the f16 base: what llama-perplexity prints of all tokens, and what single tokens tell."""

    stats: QualityStats
    tokens: TokenKld


@dataclass(frozen=True, slots=True, kw_only=True)
class Needles:
    """Whether each needle was found, by the id of its trial."""

    trials: dict[str, bool]


Measurement = Speed | Perplexity | Divergence | Needles | Nmse


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement, with what really ran (`observed` None where no log can show it).

    `device_mib_peak` is the most GPU memory that its process took, in MiB; None where that cannot be seen.
    """

    measurement: Measurement
    observed: Observed | None
    verdict: Verdict
    device_mib_peak: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A failure: `ending` is the exit code or signal in words, `log` a path below the cache, `hint` the next step."""

    reason: str
    ending: str
    log: str
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A cell that cannot run at all on this model, and why."""

    reason: str


Outcome = Measured | Failed | Skipped
