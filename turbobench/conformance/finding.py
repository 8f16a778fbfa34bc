"""What a check found: how many comparisons, the worst of each kind, and the first few that are wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["passed", "failed", "unsupported"]
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finished case. `worst` holds the largest error of each kind; `reason` is empty for one that passed.

    `unsupported` is a refusal where nothing is promised; where it is promised the case has failed.
    """

    case: str
    outcome: Outcome
    n_checks: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(slots=True)
class Tally:
    """Comparisons of one case, as they are made."""

    n_checks: int = 0
    worst: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, kind: str, error: float, bound: float, where: str) -> None:
        """Note one comparison; an error above `bound`, or one that is no number, is a problem."""
        self.n_checks += 1
        self.worst[kind] = max(error, self.worst.get(kind, 0.0)) if error == error else float("inf")  # noqa: PLR0124
        if not error <= bound:
            self.problems.append(f"{where}: {kind} {error:.3g}, at most {bound:.3g} is right")

    def finding(self, case: str) -> Finding:
        if not self.n_checks:
            return Finding(case=case, outcome="failed", reason="nothing was compared")
        reason = "; ".join(self.problems[:_SHOWN])
        if len(self.problems) > _SHOWN:
            reason += f"; and {len(self.problems) - _SHOWN} more"
        outcome: Outcome = "failed" if self.problems else "passed"
        worst = {kind: float(f"{value:.4g}") for kind, value in self.worst.items()}
        return Finding(case=case, outcome=outcome, n_checks=self.n_checks, worst=worst, reason=reason)
