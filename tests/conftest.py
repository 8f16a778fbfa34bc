"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache folder of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TURBOBENCH_CACHE", str(folder))
    return folder
