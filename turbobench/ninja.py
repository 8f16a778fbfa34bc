"""Follow a CMake configuration and a Ninja build: a live counter, and the reason when it fails."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, TaskID

from turbobench import console
from turbobench.errors import BuildError, DiskFullError
from turbobench.proc import Completed

_COUNTER = re.compile(r"^\[(\d+)/(\d+)\] (.*)")
_ERROR = re.compile(
    r"(?:fatal )?error:|ptxas (?:error|fatal)|CMake Error|undefined reference|ninja: error:"
    r"|: No such file or directory$"
)
_KILLED = re.compile(r"Killed signal|signal 9|cannot allocate memory|virtual memory exhausted", re.IGNORECASE)
_SHOWN_ERRORS = 3
_QUARTER = 0.25


def ninja_status() -> dict[str, str]:
    """Return the environment that makes Ninja print the counter this module reads."""
    return {"NINJA_STATUS": "[%f/%t] "}


class Compilation:
    """Takes the lines of CMake's and Ninja's output as they come."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.disk_full = False
        self.out_of_memory = False
        self._display: tuple[Progress, TaskID] | None = None
        self._announced = 0.0
        self._finished = 0

    def take(self, line: str) -> None:
        """Count a finished step, or keep a line that says why something failed."""
        if counter := _COUNTER.match(line):
            self._count(int(counter[1]), int(counter[2]))
        if "No space left on device" in line:
            self.disk_full = True
        if _KILLED.search(line):
            self.out_of_memory = True
        if _ERROR.search(line) and len(self.errors) < _SHOWN_ERRORS:
            self.errors.append(line.strip())

    def failure(self, doing: str, ended: Completed) -> BuildError | DiskFullError:
        """Return the error that says what failed, with the first errors and the log."""
        if self.disk_full:
            return DiskFullError(
                f"no space left while {doing}",
                "free some space, or set TURBOBENCH_CACHE to a folder on a larger disk, and run it again",
            )
        lines = self.errors or list(ended.tail[-_SHOWN_ERRORS:])
        hint = "run the same command again with --jobs 1" if self.out_of_memory else f"see {_place(ended.log)}"
        return BuildError("\n    ".join([f"{doing} failed ({ended.ending}):", *lines]), hint)

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """Show the counter while the body runs."""
        with console.progress() as display:
            self._display = (display, display.add_task(title, total=None))
            try:
                yield
            finally:
                self._display = None

    def _count(self, finished: int, total: int) -> None:
        if self._display is None or finished < self._finished:
            return  # the latter is of a build inside this one: that of Vulkan's shader generator
        self._finished = finished
        display, task = self._display
        display.update(task, completed=finished, total=total)
        # A log file of a CI job shows no moving bar: there, each quarter is a line.
        if not console.err.is_terminal and finished / total >= self._announced + _QUARTER:
            self._announced = finished / total // _QUARTER * _QUARTER
            console.step(f"compiled {finished} of {total}")


def _place(log: Path | None) -> str:
    return str(log) if log is not None else "the output above"
