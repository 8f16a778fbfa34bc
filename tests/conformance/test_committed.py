"""The committed reports say what their records say, and none of them hides a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench.conformance import report
from turbobench.conformance.verify import read_verified
from turbobench.store import read

FOLDER = Path(__file__).parents[2] / "results" / "conformance"


@pytest.mark.parametrize("records", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_committed_report_is_that_of_its_records(records: Path) -> None:
    verified = read_verified(read(records))
    verified.check()
    text = records.with_suffix(".md").read_text("utf-8")
    for fact in ("tree_id", "build_id", "description", "date"):
        assert verified.header[fact] in text
    assert report.summary(verified) in text
    assert all(fault["fault"] in text for fault in verified.faults)


def test_the_cpu_has_a_whole_report() -> None:
    verified = read_verified(read(FOLDER / "cpu.jsonl"))
    assert not verified.missing
    assert verified.faults
