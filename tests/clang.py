"""The clang++ that compiles GPU kernels for tests."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

_NEWEST = 30
OLDEST_WITH_HALVES = 16  # the first with arithmetic in _Float16 on every machine of interest


def clang_for(purpose: str, oldest: int) -> str:
    """Return a clang++ of version `oldest` or newer on PATH or of ROCm; skips the test where there is none."""
    names = ("clang++", *(f"clang++-{version}" for version in range(_NEWEST, oldest - 1, -1)))
    for clang in filter(None, map(shutil.which, (*names, "/opt/rocm/llvm/bin/clang++"))):
        said = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"clang version (\d+)", said)
        if found and int(found[1]) >= oldest:
            return clang
    pytest.skip(f"no clang++ of version {oldest} or newer on PATH: it compiles {purpose}")
