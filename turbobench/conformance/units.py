"""The units of a conformance run: groups of cases for one worker process, and filters for test-backend-ops."""

from __future__ import annotations

import fnmatch
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from turbobench import proc
from turbobench.build import Build
from turbobench.conformance import worker
from turbobench.conformance.cases import PROMISES, all_cases
from turbobench.conformance.finding import Finding
from turbobench.errors import DeviceMissingError, MeasurementError
from turbobench.ggml import DeviceName, search_path
from turbobench.paths import cache_dir
from turbobench.programs import backend_ops
from turbobench.programs.backend_ops import OpCase, OpRequest

_TIMEOUT_S = 3600.0
_PROGRAM = "test-backend-ops"
_SHOWN = 3
# Bytes of one tensor that every device of a backend must take. Vulkan's limit is maxStorageBufferRange, at least 2^27.
_LARGEST = {"vulkan": 1 << 27}
Report = Callable[[Finding], None]
Executor = Callable[..., proc.Completed]
"""`proc.run`, or what a test has in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpUnit:
    """Cases of test-backend-ops. On the CPU an op without a second path would only be compared with itself.

    `on_gpu` is False for what is of types that only the CPU has: nothing would be compared.
    """

    op: str
    pattern: str
    about: str
    on_cpu: bool = False
    on_gpu: bool = True

    def runs_on(self, backend: str) -> bool:
        return self.on_cpu if backend == "cpu" else self.on_gpu

    @property
    def id(self) -> str:
        return f"{_PROGRAM} {self.op} {self.about}"


OP_UNITS = (
    OpUnit(op="SET_ROWS", pattern="type_dst=turbo", about="turbo"),
    OpUnit(op="GET_ROWS", pattern="type=turbo", about="turbo"),
    OpUnit(op="CPY", pattern="turbo", about="turbo"),
    OpUnit(op="FLASH_ATTN_EXT", pattern="type_K=turbo4,", about="K turbo4", on_cpu=True),
    OpUnit(op="FLASH_ATTN_EXT", pattern="type_K=turbo3,", about="K turbo3", on_cpu=True),
    OpUnit(op="FLASH_ATTN_EXT", pattern="type_K=turbo3t,", about="K turbo3t", on_cpu=True, on_gpu=False),
    OpUnit(op="FLASH_ATTN_EXT", pattern="type_K=[^t].*type_V=turbo", about="only V turbo", on_cpu=True),
    OpUnit(op="ATTENTION_LAYER", pattern="type_K", about="whole layers", on_cpu=True),
)


def unit_ids(backend: str, only: str | None = None) -> list[str]:
    """Return the ids of all cases and units of test-backend-ops, or those that the glob `only` leaves."""
    units = [unit.id for unit in OP_UNITS if unit.runs_on(backend)]
    return [
        name for name in (*(case.id for case in all_cases()), *units) if only is None or fnmatch.fnmatch(name, only)
    ]


def find_device(build: Build, executor: Executor = proc.run) -> DeviceName:
    """Return the device of the build's backend; DeviceMissingError if it finds none."""
    lines: list[str] = []
    ended = _run_worker(build, [], lines.append, executor)
    for fields in _objects(lines):
        if "description" in fields:
            return DeviceName(name=str(fields["device"]), description=str(fields["description"]))
        if fields.get("exit_code") == DeviceMissingError.exit_code:
            raise DeviceMissingError(str(fields["error"]), str(fields["hint"]))
        if "error" in fields:
            raise MeasurementError(str(fields["error"]), str(fields["hint"]))
    raise proc.CommandError(ended, f"the {build.backend} backend does not start on this machine")


def run_cases(build: Build, ids: Iterable[str], report: Report, executor: Executor = proc.run) -> None:
    """Run cases group by group, each in a process of its own; a crash fails its case, and the rest goes on."""
    wanted = set(ids)
    chosen = [case for case in all_cases() if case.id in wanted]
    for _, group in groupby(chosen, key=lambda case: case.group):
        left = [case.id for case in group]
        while left:
            left = _run_group(build, left, report, executor)


def _run_group(build: Build, ids: list[str], report: Report, executor: Executor) -> list[str]:
    """Run cases in one process; returns those that it did not come to."""
    started: list[str] = []
    finished: list[str] = []

    def take(line: str) -> None:
        for fields in _objects([line]):
            if "start" in fields:
                started.append(str(fields["start"]))
            elif "outcome" in fields:
                finished.append(str(fields["case"]))
                report(Finding(**fields))

    ended = _run_worker(build, ids, take, executor)
    if not started:
        raise proc.CommandError(ended, f"the {build.backend} backend does not start on this machine")
    if len(finished) < len(started):
        report(Finding(case=started[-1], outcome="failed", reason=_how_it_ended(ended)))
    elif len(started) < len(ids) and ended.ok:
        raise proc.CommandError(ended, "the worker ended early: this is a bug of turbobench")
    return ids[len(started) :]


def run_op_unit(build: Build, unit: OpUnit, device: str, executor: Executor = proc.run) -> Finding:
    """Run one filter of test-backend-ops on the device; every way in which it can pass without a proof is a failure."""
    request = OpRequest(op=unit.op, pattern=unit.pattern, device=device)
    command = proc.Command(
        argv=backend_ops.argv(build.program(_PROGRAM), request),
        env=search_path(build.bin_dir),
        log=_log(build),
        timeout_s=_TIMEOUT_S,
    )
    ended = executor(command)
    cases = [case for line in ended.stdout.splitlines() if (case := backend_ops.parse_line(line)) is not None]
    try:
        if ended.returncode in (0, 1) and not ended.timed_out:  # 1: it says that cases failed
            cases = backend_ops.parse(ended.stdout, request)
    except MeasurementError as failure:
        return Finding(case=unit.id, outcome="failed", n_checks=len(cases), reason=failure.what)
    problems = [f"{case.params}: {case.said or 'differs from the CPU'}" for case in cases if case.ending == "FAIL"]
    refused = [case for case in cases if case.ending == "not supported"]
    problems += [
        f"{case.params}: not supported, and the design says that it is"
        for case in refused
        if _promised(case, build.backend)
    ]
    if not ended.ok and not problems:
        last = f", after {cases[-1].params}" if cases else ""
        problems = [_how_it_ended(ended) + last]
    reason = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
    return Finding(
        case=unit.id,
        outcome="failed" if problems else "passed",
        n_checks=len(cases) - len(refused),
        worst={"refused, not promised": float(len(refused))} if refused else {},
        reason=reason,
    )


def _promised(case: OpCase, backend: str) -> bool:
    promise = PROMISES[backend]
    to, of = case.param("type_dst") or "", case.param("type_src") or ""
    match case.op:
        case "SET_ROWS":
            return "SET_ROWS" in promise.row_ops and to in promise.types
        case "GET_ROWS":
            fits = _get_rows_bytes(case) <= _LARGEST.get(backend, sys.maxsize)
            return "GET_ROWS" in promise.row_ops and case.param("type") in promise.types and fits
        case "CPY" if to.startswith("turbo"):
            return "CPY to" in promise.row_ops and to in promise.types
        case "CPY":
            return "CPY from" in promise.row_ops and of in promise.types
    types = {case.param("type_K"), case.param("type_V")}
    if case.op == "ATTENTION_LAYER":
        size = int(case.param("head_size") or 0)
        return types <= set(promise.types) and (size, size) in promise.heads
    heads = (int(case.param("hsk") or 0), int(case.param("hsv") or 0))
    return types <= set(promise.types) and heads in promise.heads


def _get_rows_bytes(case: OpCase) -> int:
    """Return the size of what GET_ROWS gives, in floats: the largest tensor of all cases."""
    return 4 * math.prod(int(case.param(name) or 1) for name in ("n", "r", "be1", "be2"))


def _run_worker(build: Build, ids: list[str], on_line: Callable[[str], None], executor: Executor) -> proc.Completed:
    command = proc.Command(
        argv=worker.argv(build.bin_dir, build.backend),
        env=search_path(build.bin_dir),
        stdin="".join(f"{name}\n" for name in ids),
        log=_log(build),
        timeout_s=_TIMEOUT_S,
    )
    return executor(command, on_line=on_line)


def _objects(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the JSON objects among lines of output, which ggml writes to as well."""
    found = []
    for line in lines:
        try:
            fields = json.loads(line) if line.startswith("{") else None
        except ValueError:
            continue
        if isinstance(fields, dict):
            found.append(fields)
    return found


def _how_it_ended(ended: proc.Completed) -> str:
    telling = next((line for line in reversed(ended.tail) if "error" in line.lower() or "assert" in line.lower()), "")
    return f"the process ended before its result: {ended.ending}" + (f" ({telling.strip()})" if telling else "")


def _log(build: Build) -> Path:
    return cache_dir() / "logs" / f"verify-{build.backend}.log"
