from __future__ import annotations

from pathlib import Path

import pytest

from turbobench.errors import BuildError, DiskFullError
from turbobench.ninja import Compilation
from turbobench.proc import Completed

_CAPTURED = Path(__file__).parent / "data" / "ninja-compile-error.txt"
_ENDED = Completed(argv=("ninja",), returncode=1, stdout="", tail=("last line",), log=None, wall_s=1.0, timed_out=False)


def _failure(*lines: str) -> BuildError | DiskFullError:
    watch = Compilation()
    for line in lines:
        watch.take(line)
    return watch.failure("compiling", _ENDED)


def test_the_first_error_of_a_real_failure_is_the_reason() -> None:
    failure = _failure(*_CAPTURED.read_text().splitlines())
    assert "a.c:1:25: error: ‘missing’ undeclared" in failure.what.replace("'missing'", "‘missing’")


def test_without_a_known_error_the_last_lines_are_shown() -> None:
    assert "last line" in _failure("[1/2] Building C object a.o").what


def test_a_full_disk_is_not_a_compile_error() -> None:
    assert isinstance(_failure("fatal error: error writing to a.s: No space left on device"), DiskFullError)


def test_a_compiler_killed_for_memory_gets_the_hint_to_use_fewer_jobs() -> None:
    assert "--jobs 1" in _failure("c++: fatal error: Killed signal terminated program cc1plus").hint


def test_a_build_inside_the_build_does_not_move_the_counter(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Compilation()
    with watch.shown("building"):
        for line in ("[0/2] Re-checking", "[20/100] a", "[1/2] inside", "[2/2] inside", "[25/100] b", "[50/100] c"):
            watch.take(line)
    announced = [line for line in capsys.readouterr().err.splitlines() if "compiled" in line]
    assert announced == ["• compiled 25 of 100", "• compiled 50 of 100"]
