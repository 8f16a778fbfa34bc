"""The project's own checks: lint, format, types, and files that are generated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "check",
    [
        ("ruff", "check", "turbobench", "tests"),
        ("ruff", "format", "--check", "turbobench", "tests"),
        ("mypy",),
        ("turbobench.codec", "check"),
    ],
    ids=" ".join,
)
def test_the_project_passes(check: tuple[str, ...]) -> None:
    ended = subprocess.run(  # a tool of the development environment, run as a developer runs it
        [sys.executable, "-m", *check],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
