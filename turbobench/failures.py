"""A failure in the words of a record: one line of reason, how the program ended, where its log is, what to do next."""

from __future__ import annotations

import re
from pathlib import Path

from turbobench import proc
from turbobench.errors import TurbobenchError
from turbobench.outcome import Failed
from turbobench.paths import cache_dir

_TELLING = re.compile(r"error|fail|assert|abort|unsupported|requires|cannot|not supported", re.IGNORECASE)


def failed(failure: TurbobenchError, log: Path) -> Failed:
    """Put a failure into one line without a path of this machine, since the store is committed."""
    if not isinstance(failure, proc.CommandError):
        return Failed(reason=_portable(failure.what), ending="exit code 0", log=_portable(str(log)), hint=failure.hint)
    completed = failure.completed
    telling = [line for line in completed.tail if _TELLING.search(line)] or list(completed.tail[-1:])
    program = Path(completed.argv[0]).name
    reason = f"{program}: {completed.ending}" + (f": {telling[-1].strip()}" if telling else "")
    return Failed(
        reason=_portable(reason), ending=completed.ending, log=_portable(str(log)), hint=_next_step(completed)
    )


def _next_step(completed: proc.Completed) -> str:
    match completed.signal_name:
        case "SIGILL":
            return "this CPU cannot run an instruction of the build: run 'turbobench build' on this machine"
        case "SIGKILL":
            return "probably out of memory: ask for a smaller depth or n_ctx"
        case None:
            return "its log says more; running the same command again retries this cell"
        case _:
            return "a crash of the program: its log says where; running the same command again retries this cell"


def _portable(text: str) -> str:
    return text.replace(str(cache_dir()), "$TURBOBENCH_CACHE").replace(str(Path.home()), "~")
