"""A conformance run of one build: what is not known yet of exactly this build and device is run, and stored at once."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from turbobench import __version__, backends, console, proc
from turbobench.build import Build
from turbobench.codec import golden
from turbobench.conformance.finding import Finding
from turbobench.conformance.units import OP_UNITS, Executor, find_device, run_cases, run_op_unit, unit_ids
from turbobench.errors import ConfigError, ConformanceError, DeviceMissingError
from turbobench.ggml import DeviceName
from turbobench.machine import this_machine
from turbobench.store import SCHEMA, Record, Store, open_store

HEADER = "conformance"
CASE = "conformance-case"
FAULT = "conformance-fault"

# What must be the same for results of an earlier run to count.
_IDENTITY = ("backend", "tree_id", "build_id", "suite", "device", "description", "cpu")
_CHECKS = ("attention", "cases", "finding", "reference", "rows")
_SOFTWARE = "llvmpipe"  # what Mesa's lavapipe calls itself: a Vulkan driver that computes on the CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A result set of one backend. `missing` are ids of cases that have no result yet."""

    header: Record
    cases: tuple[Finding, ...]
    faults: tuple[Record, ...]
    missing: tuple[str, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(case for case in self.cases if case.outcome == "failed")

    def check(self) -> None:
        """Raise ConformanceError if a case failed, or a planted fault was not seen."""
        missed = [fault["fault"] for fault in self.faults if not fault["caught"]]
        if missed:
            raise ConformanceError(
                f"{len(missed)} planted faults of {self.header['backend']} were not seen, the first: {missed[0]}",
                "the checks do not reach that code: they prove nothing about it",
            )
        if self.failed:
            first = self.failed[0]
            raise ConformanceError(
                f"{self.header['backend']}: {len(self.failed)} of {len(self.cases)} cases failed, "
                f"the first: {first.case}: {first.reason}",
                f"the report names each; 'turbobench verify --backend {self.header['backend']}' retries what failed",
            )


def require_device(backend: str) -> None:
    """Refuse, before anything is built, a backend without a device here; DeviceMissingError says what is missing."""
    module = backends.get(backend)
    if module.N_GPU_LAYERS is None or module.gpus():
        return
    reason = (module.unavailable() or "").partition(";")[0]
    raise DeviceMissingError(
        f"no {backend} device here, nothing was verified" + (f": {reason}" if reason else ""),
        f"run 'turbobench verify --backend {backend}' on a machine with one",
    )


def verify(build: Build, folder: Path, *, only: str | None = None, executor: Executor = proc.run) -> Verified:
    """Run what `folder` lacks for this build and device; `only` is a glob of case ids.

    Results of another build or device are replaced; a case that failed is run again.
    """
    wanted = unit_ids(build.backend, only)
    if not wanted:
        raise ConfigError(
            f"no case of {build.backend} is named {only!r}", "try a glob such as 'FLASH_ATTN_EXT turbo4*'"
        )
    device = find_device(build, executor)
    with open_store(folder, f"{build.backend}.jsonl") as store:
        header = _header(build, device)
        if not _continues(store.records, header):
            store.clear()
            store.append(header)
        done = {case.case for case in _cases(store.records) if case.outcome != "failed"}
        left = [name for name in wanted if name not in done]
        console.step(f"verifying {build.backend} on {device.name} ({device.description}): {len(left)} cases")
        _run(build, device, left, store, executor)
        return read_verified(store.records)


def read_verified(records: list[Record]) -> Verified:
    """Read a result set; the last result of a case counts."""
    header = records[0]
    cases = {case.case: case for case in _cases(records)}
    faults = {record["fault"]: record for record in records if record["kind"] == FAULT}
    expected = unit_ids(header["backend"])
    return Verified(
        header=header,
        cases=tuple(cases[name] for name in expected if name in cases),
        faults=tuple(faults.values()),
        missing=tuple(name for name in expected if name not in cases),
    )


def suite_id() -> str:
    """Return a hash of the checks themselves, comments apart: results of other checks say nothing about these."""
    folder = Path(__file__).parent
    files = (*(folder / f"{name}.py" for name in _CHECKS), folder.parent / "ggml.py")
    parts = [ast.dump(ast.parse(path.read_bytes())).encode() for path in files]
    return hashlib.sha256(b"\0".join((*parts, golden.PATH.read_bytes()))).hexdigest()[:12]


def _run(build: Build, device: DeviceName, ids: list[str], store: Store, executor: Executor) -> None:
    with console.progress() as progress:
        task = progress.add_task(f"verifying {build.backend}", total=len(ids))

        def report(finding: Finding) -> None:
            store.append({"schema": SCHEMA, "kind": CASE, "ended_at": _now(), **asdict(finding)})
            progress.advance(task)
            if finding.outcome == "failed":
                console.warn(f"{finding.case}: {finding.reason}")

        run_cases(build, ids, report, executor)
        for unit in OP_UNITS:
            if unit.id in ids:
                report(run_op_unit(build, unit, device.name, executor))


def _header(build: Build, device: DeviceName) -> Record:
    module = backends.get(build.backend)
    return {
        "schema": SCHEMA,
        "kind": HEADER,
        "date": _now(),
        "turbobench": __version__,
        "suite": suite_id(),
        "backend": build.backend,
        "executed": _executed(build.backend, device),
        "device": device.name,
        "description": device.description,
        "devices": list(module.devices()),
        "cpu": this_machine().cpu,
        "system": this_machine().system,
        "tree_id": build.tree_id,
        "base_commit": build.base_commit,
        "build_id": build.id,
        "compiler": build.compiler,
        "archs": list(build.archs),
        "cmake_flags": list(build.cmake_flags),
        "notes": list(build.notes),
    }


def _executed(backend: str, device: DeviceName) -> str:
    if backend == "cpu":
        return "CPU"
    return "software driver" if _SOFTWARE in device.description else "device"


def _continues(records: list[Record], header: Record) -> bool:
    """Return whether stored results are of the same build on the same device."""
    if not records or records[0].get("kind") != HEADER:
        return False
    return all(records[0].get(name) == header[name] for name in _IDENTITY)


def _cases(records: list[Record]) -> list[Finding]:
    names = Finding.__dataclass_fields__
    return [Finding(**{name: record[name] for name in names}) for record in records if record["kind"] == CASE]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
