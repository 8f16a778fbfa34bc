"""Fixtures that every test may use."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache folder of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TURBOBENCH_CACHE", str(folder))
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seconds of each group of tests: what a change of CI costs."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            path = Path(report.nodeid.partition("::")[0])
            # the files of tests/native compile for several machines
            seconds[str(path if path.parent.name == "native" else path.parent)] += report.duration
    terminalreporter.section("seconds by group")
    for group, duration in sorted(seconds.items(), key=lambda item: -item[1]):
        terminalreporter.write_line(f"{duration:8.1f} {group}")
