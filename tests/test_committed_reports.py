"""The committed reports are what their records and this code give."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench import report, store

_RESULTS = Path(__file__).parents[1] / "results"
_REPORTS = sorted(path.parent for path in _RESULTS.glob("*/report.md") if (path.parent / store.RECORDS).is_file())


@pytest.mark.parametrize("folder", _REPORTS, ids=lambda folder: folder.name)
def test_a_report_is_that_of_its_records(folder: Path) -> None:
    assert (folder / "report.md").read_text("utf-8") == report.markdown(report.load(folder))
