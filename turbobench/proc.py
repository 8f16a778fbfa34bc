"""The only module that starts processes: echoes the command, logs to a file, times out, kills the process group."""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from turbobench import console
from turbobench.errors import TurbobenchError
from turbobench.paths import raise_if_disk_full

_TAIL_LINES = 20
_KILL_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """How a process ended. `returncode` is negative for a signal, as in `subprocess`."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    tail: tuple[str, ...]
    log: Path | None
    wall_s: float
    timed_out: bool

    @property
    def ok(self) -> bool:
        return self.returncode == 0 and not self.timed_out

    @property
    def signal_name(self) -> str | None:
        """Return the name of the signal that ended the process, also when a shell reported it as 128+n."""
        number = -self.returncode if self.returncode < 0 else self.returncode - 128 if self.returncode > 128 else 0
        return signal.Signals(number).name if number in {s.value for s in signal.Signals} else None

    @property
    def ending(self) -> str:
        """Say in words how the process ended."""
        if self.timed_out:
            return f"timed out after {self.wall_s:.0f} s"
        return f"killed by {self.signal_name}" if self.signal_name else f"exit code {self.returncode}"


class CommandError(TurbobenchError):
    """A command failed; the message shows argv, how it ended, its last lines and the log path."""

    exit_code = 22

    def __init__(self, completed: Completed, hint: str = "") -> None:
        lines = [f"{quote(completed.argv)}: {completed.ending}", *(f"    {line}" for line in completed.tail)]
        if completed.log is not None:
            lines.append(f"  log: {completed.log}")
        super().__init__("\n".join(lines), hint)
        self.completed = completed


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. `env` is added to this process's environment; `log` receives stdout and stderr, appended."""

    argv: Sequence[str | os.PathLike[str]]
    cwd: Path | None = None
    env: Mapping[str, str] | None = None
    log: Path | None = None
    timeout_s: float | None = None
    stdin: str | None = None
    echo: bool = False


def quote(argv: Sequence[str | os.PathLike[str]]) -> str:
    """Render argv so that it can be pasted into a shell."""
    return shlex.join(os.fspath(part) for part in argv)


def run(command: Command, *, on_line: Callable[[str], None] | None = None) -> Completed:
    """Run to the end and return how it ended; never raises for a failing command.

    stdout is captured and returned; stderr goes to the log (and to `tail`). Each line of either is given to `on_line`.
    A missing program is reported like a shell does, as exit code 127. KeyboardInterrupt kills the whole process group.
    """
    argv = tuple(os.fspath(part) for part in command.argv)
    if command.echo:
        console.echo_command(quote(argv))
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            argv,
            cwd=command.cwd,
            env={**os.environ, **(command.env or {})},
            stdin=subprocess.PIPE if command.stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (FileNotFoundError, PermissionError) as failure:
        return _not_started(argv, str(failure), command.log)
    pump = _Pump(process, command, on_line)
    try:
        timed_out = pump.until_end(None if command.timeout_s is None else started + command.timeout_s)
    finally:
        kill_group(process)
        pump.close()
    return Completed(
        argv=argv,
        returncode=process.returncode,
        stdout="".join(pump.stdout),
        tail=tuple(pump.tail),
        log=command.log,
        wall_s=time.monotonic() - started,
        timed_out=timed_out,
    )


def check(command: Command, *, on_line: Callable[[str], None] | None = None, hint: str = "") -> Completed:
    """Run like `run`, and raise `CommandError` unless it succeeded."""
    completed = run(command, on_line=on_line)
    if not completed.ok:
        raise CommandError(completed, hint)
    return completed


@contextlib.contextmanager
def beside(
    command: Command, on_line: Callable[[str], None], *, stderr: bool = False, own_group: bool = True
) -> Iterator[Callable[[], bool]]:
    """Run a command beside the body and end it with the body; each line of its stdout goes to `on_line`, in a thread.

    With `stderr` the lines of that, too. Without `own_group` whoever ends this process's group ends it as well. Yields
    what says whether it has ended by itself. A program that cannot be started gives no lines, and has ended.
    """
    try:
        process = subprocess.Popen(
            [os.fspath(part) for part in command.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if stderr else subprocess.DEVNULL,
            start_new_session=own_group,
        )
    except (FileNotFoundError, PermissionError):
        yield lambda: True
        return
    assert process.stdout is not None  # noqa: S101 - opened as a pipe above
    with process.stdout as pipe:

        def read() -> None:
            for raw in pipe:
                on_line(raw.decode(errors="replace"))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield lambda: process.poll() is not None
        finally:
            if own_group:
                kill_group(process)
            else:
                process.kill()
                process.wait()
            reader.join()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group of a process started with `start_new_session`: SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(_KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            continue


def _not_started(argv: tuple[str, ...], reason: str, log: Path | None) -> Completed:
    return Completed(argv=argv, returncode=127, stdout="", tail=(reason,), log=log, wall_s=0.0, timed_out=False)


class _Pump:
    """Moves a process's output into the log, the tail and the caller's hook, line by line."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Command, on_line: Callable[[str], None] | None
    ) -> None:
        self.process = process
        self.on_line = on_line
        self.stdout: list[str] = []
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._log = self._open_log(command)
        self._pending = {"stdout": b"", "stderr": b""}
        self._feed(command.stdin)

    @staticmethod
    def _open_log(command: Command) -> int | None:
        if command.log is None:
            return None
        command.log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(command.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, f"+ {quote(command.argv)}\n".encode())
        return handle

    def _feed(self, text: str | None) -> None:
        if text is not None and self.process.stdin is not None:
            try:
                self.process.stdin.write(text.encode())
                self.process.stdin.close()
            except BrokenPipeError:
                pass

    def until_end(self, deadline: float | None) -> bool:
        """Read until both pipes close or the deadline passes; return whether it passed."""
        with selectors.DefaultSelector() as selector:
            assert self.process.stdout is not None  # noqa: S101 - opened as pipes above
            assert self.process.stderr is not None  # noqa: S101
            selector.register(self.process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(self.process.stderr, selectors.EVENT_READ, "stderr")
            while selector.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return True
                for key, _ in selector.select(left):
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    self._take(key.data, chunk)
            self.process.wait()
        return False

    def _take(self, stream: str, chunk: bytes) -> None:
        if self._log is not None and chunk:
            try:
                os.write(self._log, chunk)
            except OSError as failure:
                raise_if_disk_full(failure, Path(f"the log of {self.process.args!r}"))
                raise
        if stream == "stderr":  # git's progress ends its lines so
            chunk = chunk.replace(b"\r", b"\n")
        *lines, rest = (self._pending[stream] + chunk).split(b"\n")
        if not chunk and rest:  # the stream ended without a last newline
            lines, rest = [rest], b""
        self._pending[stream] = rest
        for raw in lines:
            line = raw.decode(errors="replace")
            if stream == "stdout":
                self.stdout.append(line + "\n")
            if line.strip():
                self.tail.append(line.rstrip())
            if self.on_line is not None:
                self.on_line(line)

    def close(self) -> None:
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        if self._log is not None:
            os.close(self._log)
            self._log = None
