"""The result store: an append-only JSONL file of one record a line, which survives being killed at any byte.

Schema history
1  `sweep` (provenance of one run) and `cell` (one outcome of one cell in one round) records.
   A measured cell of a GPU has `device_mib_peak`, and a `sweep` on one names its `gpus`.
   A `kld` measurement has had `fingerprint`, `chunks` and `buckets` since llama-perplexity writes single tokens, and
   `runs` since two paths are compared by them.
   A cell of kind `niah` has a measurement of that type: `trials`, from a prompt's id to whether the needle was found.
   The `cell` of a pair with a property has `center` or `unrotated`.
   A `sweep` has had `host` since a set may no longer be continued on another machine; one without counts as foreign.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, assert_never

import filelock

from turbobench.errors import StoreError
from turbobench.matrix import Cell
from turbobench.outcome import Divergence, Failed, Measured, Needles, Nmse, Outcome, Perplexity, Skipped, Speed
from turbobench.paths import cache_dir, raise_if_disk_full

SCHEMA = 1
RECORDS = "records.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEnd:
    """One outcome of a cell in a round; cells with the same `job` were measured by one process of `job_wall_s`."""

    cell: Cell
    round: int
    outcome: Outcome
    job: str
    job_wall_s: float
    ended_at: str

    def record(self, sweep_id: str) -> Record:
        """Return the record as JSON values."""
        return {
            "schema": SCHEMA,
            "kind": "cell",
            "sweep_id": sweep_id,
            "cell_id": self.cell.id,
            "cell": self.cell.fields(),
            "round": self.round,
            "job": self.job,
            "job_wall_s": round(self.job_wall_s, 3),
            "ended_at": self.ended_at,
            **_outcome_fields(self.outcome),
        }


class Store:
    """A result set open for appending; make one with `open_store`."""

    def __init__(self, path: Path, records: list[Record]) -> None:
        self.path = path
        self.records = records

    def append(self, record: Record) -> None:
        """Write one record and force it to the disk, in one write so that a kill tears at most this line."""
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(handle, line.encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as failure:
            raise_if_disk_full(failure, self.path)
            raise StoreError(f"{self.path} cannot be written: {failure}", "give another folder with --out") from failure
        self.records.append(record)

    def clear(self) -> None:
        """Begin anew: what was stored is gone."""
        self.path.unlink(missing_ok=True)
        self.records.clear()

    def finished(self) -> frozenset[tuple[str, int]]:
        """Return (cell id, round) of every cell that was measured; failed and skipped ones are tried again."""
        return frozenset(
            (record["cell_id"], record["round"])
            for record in self.records
            if record["kind"] == "cell" and record["outcome"] == "measured"
        )


@contextmanager
def open_store(folder: Path, name: str = RECORDS) -> Iterator[Store]:
    """Open a result set for this process alone; mends a last line that a kill tore.

    Raises StoreError when another process writes to it, or a line other than the last cannot be read.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise_if_disk_full(failure, folder)
        raise StoreError(f"{folder} cannot be made: {failure}", "give another folder with --out") from failure
    lock = filelock.FileLock(_lock_path(folder), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StoreError(
            f"another turbobench is writing to {folder}", "wait until it ends, or give another folder with --out"
        ) from None
    try:
        records = read(path)
        _mend(path)
        yield Store(path, records)
    finally:
        lock.release()


def read(path: Path) -> list[Record]:
    """Return every whole record; a torn last line is left out. Raises StoreError for anything else unreadable."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise StoreError(f"{path} cannot be read: {failure}", "check the path and its permissions") from failure
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            schema = record["schema"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # no newline after it: the write was cut off
                break
            raise StoreError(
                f"{path}:{number} is not a record of turbobench",
                "restore the file, or remove that line to measure it again",
            ) from None
        if schema != SCHEMA:
            raise StoreError(
                f"{path}:{number} has schema {schema}, this turbobench reads {SCHEMA}",
                "give another folder with --out, or use the version that wrote it",
            )
        records.append(record)
    return records


def _mend(path: Path) -> None:
    """Cut a torn last line off, so that the next record starts on a line of its own."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole == len(content):
        return
    try:
        json.loads(content[whole:])
    except ValueError:
        os.truncate(path, whole)
    else:  # only the newline is missing
        with path.open("ab") as handle:
            handle.write(b"\n")


def _lock_path(folder: Path) -> Path:
    """Keep the lock out of the result set, which is committed."""
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    path = cache_dir() / "locks" / f"results-{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _outcome_fields(outcome: Outcome) -> Record:
    match outcome:
        case Measured():
            return {
                "outcome": "measured",
                "measurement": _measurement_fields(outcome),
                "observed": None if outcome.observed is None else asdict(outcome.observed),
                "placement": outcome.verdict.placement,
                "placement_reason": outcome.verdict.reason,
                **({} if outcome.device_mib_peak is None else {"device_mib_peak": outcome.device_mib_peak}),
            }
        case Failed():
            return {"outcome": "failed", **asdict(outcome)}
        case Skipped():
            return {"outcome": "skipped", **asdict(outcome)}
        case _:
            assert_never(outcome)


def _measurement_fields(outcome: Measured) -> Record:
    match outcome.measurement:
        case Speed():
            return {"type": "speed", **asdict(outcome.measurement)}
        case Perplexity():
            return {"type": "ppl", **asdict(outcome.measurement)}
        case Divergence(stats=stats, tokens=tokens):
            return {"type": "kld", **asdict(stats), **asdict(tokens)}
        case Needles():
            return {"type": "niah", **asdict(outcome.measurement)}
        case Nmse():
            return {"type": "nmse", **asdict(outcome.measurement)}
        case _:
            assert_never(outcome.measurement)
