"""Policies of cache types by layer: measured layer by layer, solved for each budget, checked by measuring, written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from turbobench import layer_types, proc
from turbobench.errors import SweepIncompleteError
from turbobench.kvtypes import KVPair
from turbobench.runner import Executor
from turbobench.sensitivity import Found, Plan, kld_by_cell, measured, predicted, solve, sweep
from turbobench.store import RECORDS, read
from turbobench.sweep import Prepared, run_sweep
from turbobench.tidy import last_sweep, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A pair, the KLD that the sum over layers predicts of it, and the KLD that was measured on the same text.

    `path` is the file of a policy, None for a pair of the same types in all layers.
    """

    pair: KVPair
    predicted: float
    measured: float
    path: Path | None


def find(
    plan: Plan, prepared: Prepared, folder: Path, budgets: Sequence[float], *, executor: Executor = proc.run
) -> list[Checked]:
    """Measure what `folder` lacks, write a policy for each budget in bits per value there, and return all by bits.

    The sweep of `prepared` is the plan's. Raises SweepIncompleteError if a cell failed, ConfigError for a budget below
    the smallest types, and what `run_sweep` raises.
    """
    window = prepared.spec.quality
    if window is None:
        raise ValueError("the sweep of a plan has a quality section")
    spec = sweep(plan, prepared.spec.name, window=window.model_copy(update={"keep_base": True}))
    alone = kld_by_cell(plan, _measure(replace(prepared, spec=spec), folder, executor))
    found = [solve(plan, alone, budget) for budget in sorted(set(budgets))]
    spec = sweep(plan, prepared.spec.name, [one.pair for one in found], window=window)
    kld = _measure(replace(prepared, spec=spec), folder, executor)
    checked = [
        Checked(
            pair=pair,
            predicted=predicted(alone, pair, plan.f16.by_layer),
            measured=kld[pair],
            path=None,
        )
        for pair in plan.uniform
    ]
    checked += [_written(one, plan, prepared, folder, kld[one.pair]) for one in found]
    return sorted(checked, key=lambda one: one.pair.bpv)


def _measure(prepared: Prepared, folder: Path, executor: Executor) -> dict[KVPair, float]:
    end = run_sweep(prepared, folder, executor=executor)
    if end.failed:
        raise SweepIncompleteError(
            f"{len(end.failed)} jobs failed, the first: {end.failed[0]}",
            "everything else is stored; run the same command again to retry them",
        )
    return measured(rows(last_sweep(read(folder / RECORDS))))


def _written(one: Found, plan: Plan, prepared: Prepared, folder: Path, kld: float) -> Checked:
    path = folder / f"{one.policy.name}{layer_types.SUFFIX}"
    text = f", on {prepared.corpus.name}" if prepared.corpus else ""
    comments = (
        f"{prepared.model.name}, {one.pair.bpv:.3f} bits per value; made by 'turbobench policy' for {one.budget:g}",
        f"of {', '.join(plan.types)}{'; K centred, so use it with --kv-center' if plan.center else ''}",
        f"KLD against f16: {one.predicted:.5f} predicted, {kld:.5f} measured{text}",
        f"model sha256 {prepared.model.sha256}",
    )
    layer_types.write(one.policy, path, comments)
    return Checked(pair=one.pair, predicted=one.predicted, measured=kld, path=path)
