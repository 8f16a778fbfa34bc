"""The append-only store: what survives, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.sweeps import cell_end, speed_cell
from turbobench import store
from turbobench.errors import StoreError
from turbobench.outcome import Failed

pytestmark = pytest.mark.usefixtures("cache")


def test_a_cell_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    end = cell_end(speed_cell("turbo4"))
    with store.open_store(tmp_path) as opened:
        opened.append(end.record("s1"))
        (record,) = store.read(tmp_path / store.RECORDS)
    assert record["cell_id"] == end.cell.id
    assert record["measurement"]["samples_ns"] == [500_000_000, 250_000_000]
    assert record["outcome"] == "measured"


def test_measured_cells_are_finished_and_failed_ones_are_tried_again(tmp_path: Path) -> None:
    good, bad = cell_end(speed_cell("q8_0")), cell_end(speed_cell("turbo4"), outcome=FAILED)
    with store.open_store(tmp_path) as opened:
        for end in (good, bad):
            opened.append(end.record("s1"))
        assert opened.finished() == {(good.cell.id, 0)}


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path: Path, kept: int) -> None:
    path = tmp_path / store.RECORDS
    with store.open_store(tmp_path) as opened:
        opened.append(cell_end(speed_cell("q8_0")).record("s1"))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-1][: kept if kept > 0 else len(whole) - 2])
    assert len(store.read(path)) == 1
    with store.open_store(tmp_path) as opened:
        opened.append(cell_end(speed_cell("turbo4")).record("s1"))
    assert [record["cell"]["type_k"] for record in store.read(path)] == ["q8_0", "turbo4"]


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / store.RECORDS
    with store.open_store(tmp_path) as opened:
        opened.append(cell_end(speed_cell("q8_0")).record("s1"))
    os.truncate(path, path.stat().st_size - 1)
    with store.open_store(tmp_path) as opened:
        opened.append(cell_end(speed_cell("turbo4")).record("s1"))
    assert len(store.read(path)) == 2


def test_a_broken_line_in_the_middle_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / store.RECORDS
    path.write_text('{"schema":1,"kind":"sweep"}\n{"sch\n{"schema":1,"kind":"sweep"}\n')
    with pytest.raises(StoreError, match=r"records\.jsonl:2"):
        store.read(path)


def test_another_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / store.RECORDS
    path.write_text(json.dumps({"schema": 99, "kind": "cell"}) + "\n")
    with pytest.raises(StoreError, match="schema 99"):
        store.read(path)


def test_two_writers_of_one_set_are_refused(tmp_path: Path) -> None:
    with (
        store.open_store(tmp_path),
        pytest.raises(StoreError, match="another turbobench is writing"),
        store.open_store(tmp_path),
    ):
        pass
    with store.open_store(tmp_path):  # and the lock is gone afterwards
        pass


FAILED = Failed(reason="killed by SIGSEGV", ending="killed by SIGSEGV", log="x.log", hint="")
