"""Download one package from the index that the user's pip is configured for, with progress."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress, TaskID

from turbobench import console, proc
from turbobench.errors import DiskFullError, FetchError

_ANNOUNCED = re.compile(r"Downloading \S+ \(([\d.]+) (kB|MB|GB)\)")
_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
_SAMPLE_S = 0.25


def download(requirement: str, into: Path, *, source: bool = False, options: Sequence[str] = ()) -> Path:
    """Download `requirement` (name==version), without its dependencies, into the empty directory `into`.

    With `source` it is the source package, otherwise a wheel; `options` go to pip, for instance to name the platform
    of the wheel. Returns the one file; FetchError with pip's reason.
    """
    name = requirement.partition("==")[0]
    kind = ("--no-binary", name) if source else ("--only-binary", name)
    scratch = into / "pip-tmp"
    scratch.mkdir(parents=True)
    argv = (sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input")
    with console.progress(download=True) as display:
        task = display.add_task(requirement, total=None)
        command = proc.Command(argv=(*argv, *kind, *options, "--dest", into, requirement), env={"TMPDIR": str(scratch)})
        with _growth_shown(scratch, display, task):
            ended = proc.run(command, on_line=lambda line: _announce(line, display, task))
    if not ended.ok:
        raise _failure(requirement, ended)
    files = [path for path in into.iterdir() if path.is_file()]
    if len(files) != 1:
        raise FetchError(f"package {requirement}: pip left {len(files)} files instead of one", "try again")
    return files[0]


def _announce(line: str, display: Progress, task: TaskID) -> None:
    # The first announcement is the package itself; what it needs to be unpacked comes later and is small.
    if (found := _ANNOUNCED.search(line)) and display.tasks[task].total is None:
        display.update(task, total=float(found[1]) * _UNITS[found[2]])


@contextmanager
def _growth_shown(folder: Path, display: Progress, task: TaskID) -> Iterator[None]:
    """Show how much has arrived, from the size of pip's own temporary files: pip reports it only to a terminal."""
    stop = threading.Event()

    def sample() -> None:
        most = 0
        while not stop.wait(_SAMPLE_S):
            most = max(most, _largest_file(folder))
            display.update(task, completed=most)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _largest_file(folder: Path) -> int:
    largest = 0
    for top, _folders, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(top) / name).stat().st_size)
            except OSError:  # pip removed it meanwhile
                continue
    return largest


def _failure(requirement: str, ended: proc.Completed) -> FetchError | DiskFullError:
    lines = [line.strip() for line in ended.tail]
    if any("No space left on device" in line for line in lines):
        return DiskFullError(
            f"no space left while downloading {requirement}",
            "free some space, or set TURBOBENCH_CACHE to a folder on a larger disk, and run it again",
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    missing = [line for line in lines if "No module named pip" in line]
    why = (missing or errors or lines or [ended.ending])[0]
    return FetchError(f"package {requirement}: {why}", "check the connection and pip's index configuration")
