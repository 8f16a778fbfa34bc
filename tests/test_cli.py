"""The command line as a person meets it: exit codes, one-line reasons, no tracebacks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import write_files


def _run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "turbobench", *map(str, args)]
    ended = subprocess.run(argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in ended.stderr
    return ended


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("--version",), 0),
        (("build", "--help"), 0),
        (("build", "--no-such-option"), 2),
        (("no-such-verb",), 2),
        (("build", "--backend", "vulcan"), 10),
        (("build", "--with", "servers"), 10),
        (("fetch", "--source", "/no/such/directory"), 11),
    ],
)
def test_exit_codes(cache: Path, args: tuple[str, ...], code: int) -> None:
    assert _run(*args).returncode == code


def test_a_foreign_source_is_refused_in_one_line_with_a_next_step(tmp_path: Path, cache: Path) -> None:
    ended = _run("fetch", "--source", write_files(tmp_path / "foreign"))
    assert ended.returncode == 11
    first, second = ended.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert "b2da53584951ec8aa40680229509a6646a637560" in first
    assert second.startswith("  → ")


def test_verifying_without_the_device_has_its_own_exit_code(cache: Path) -> None:
    ended = _run("verify", "--backend", "cuda", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 27
    first, second = ended.stderr.strip().splitlines()
    assert first.startswith("error: no cuda device here, nothing was verified: ")
    assert second == "  → run 'turbobench verify --backend cuda' on a machine with one"
    assert not (cache / "source").exists()


def test_a_folder_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = str(tmp_path / "file" / "cache")
    ended = _run("fetch", "--source", write_files(tmp_path / "files"), TURBOBENCH_CACHE=cache)
    assert ended.returncode == 23


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_130_and_leaves_nothing_half_written(cache: Path, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a mirror that takes the call and never answers
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/llama.cpp"
        process = subprocess.Popen(
            [sys.executable, "-m", "turbobench", "fetch", "--source", url],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_default_signals,  # noqa: PLW1509 - no threads yet
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        connection.close()
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "interrupted" in stderr
    assert [path.name for path in (cache / "source").iterdir()] == [".lock"]


def _default_signals() -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # a test runner in the background ignores it, and we would inherit that
