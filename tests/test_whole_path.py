"""The whole path on the real model: source, stack, build with its smoke test, text, measuring, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from turbobench import report, store
from turbobench.config import SweepSpec
from turbobench.prepare import Request, prepare
from turbobench.sweep import Prepared, run_sweep
from turbobench.tidy import frame, last_sweep

pytestmark = pytest.mark.build

TYPES = ("q8_0", "turbo4", "turbo3")


def spec() -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "test",
            "pairs": ["f16", *TYPES, "q8_0/turbo3"],
            "speed": {"depths": [0, 256], "pp": 64, "tg": 4, "rounds": 1},
            "quality": {"n_ctx": 256, "chunks": 1},
            "codec": {"blocks": 16384, "types": list(TYPES)},
        }
    )


@pytest.fixture(scope="module")
def ready() -> Prepared:
    """Prepare in the user's own cache, where a build may be already."""
    return prepare(Request(spec=spec()))


@pytest.fixture(scope="module")
def folder(ready: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    end = run_sweep(ready, folder)
    assert (end.failed, end.n_skipped) == ((), 0)
    return folder


def rows(folder: Path) -> list[dict[Any, Any]]:
    return frame(last_sweep(store.read(folder / store.RECORDS))).to_dict("records")


def kld(folder: Path) -> dict[str, float]:
    return {f"{r['type_k']}/{r['type_v']}": r["kld_mean"] for r in rows(folder) if r["test"] == "kld"}


def test_every_cell_ran_with_the_types_asked_for(folder: Path) -> None:
    found = rows(folder)
    assert {row["disposition"] for row in found} == {"measured"}
    assert {row["placement"] for row in found} == {"verified"}


def test_the_codecs_error_in_the_build_is_within_its_bounds(folder: Path) -> None:
    nmse = {row["type_k"]: row["nmse"] for row in rows(folder) if row["test"] == "nmse"}
    assert nmse["turbo4"] <= 0.0066
    assert nmse["turbo3"] <= 0.0273


def test_quality_falls_in_the_order_of_bits(folder: Path) -> None:
    found = kld(folder)
    assert found["f16/f16"] < found["q8_0/q8_0"] < found["turbo4/turbo4"] < found["turbo3/turbo3"]
    assert found["q8_0/turbo3"] < found["turbo3/turbo3"]


def test_a_second_sweep_measures_nothing(ready: Prepared, folder: Path) -> None:
    before = (folder / store.RECORDS).read_bytes()
    assert run_sweep(ready, folder).n_measured == 0
    assert (folder / store.RECORDS).read_bytes() == before


def test_the_report_names_every_pair(folder: Path) -> None:
    text = report.markdown(report.load(folder))
    for name in (*TYPES, "q8_0/turbo3"):
        assert f" {name} " in text
