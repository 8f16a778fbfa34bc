"""The whole path on the real model: source, stack, build with its smoke test, text, measuring, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from turbobench import native, report, store
from turbobench.config import SweepSpec
from turbobench.prepare import Request, prepare
from turbobench.sweep import Prepared, run_sweep
from turbobench.tidy import frame, last_sweep

pytestmark = pytest.mark.build

TYPES = ("q8_0", "turbo4", "turbo3")


def spec(name: str, *, n_ubatch: int = 512, speed: bool = True) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "pairs": ["f16", *TYPES, "q8_0/turbo3"],
            "quality": {"n_ctx": 256, "chunks": 1, "n_ubatch": n_ubatch, "floor": n_ubatch > 1},
            "codec": {"blocks": 16384, "types": list(TYPES)},
        }
        | ({"speed": {"depths": [0, 256], "pp": 64, "tg": 4, "rounds": 1}} if speed else {})
    )


@pytest.fixture(scope="module")
def ready() -> Prepared:
    """Prepare in the user's own cache, where a build may be already."""
    return prepare(Request(spec=spec("test")))


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


def test_the_decode_path_gives_the_quality_of_the_prefill_path(ready: Prepared, folder: Path, tmp_path: Path) -> None:
    decode = replace(ready, spec=spec("test-decode", n_ubatch=1, speed=False))
    assert run_sweep(decode, tmp_path, only="* *turbo4/turbo4").failed == ()
    assert kld(tmp_path)["turbo4/turbo4"] == pytest.approx(kld(folder)["turbo4/turbo4"], rel=0.5)


def test_a_second_sweep_measures_nothing(ready: Prepared, folder: Path) -> None:
    before = (folder / store.RECORDS).read_bytes()
    assert run_sweep(ready, folder).n_measured == 0
    assert (folder / store.RECORDS).read_bytes() == before


def test_the_report_names_every_pair(folder: Path) -> None:
    text = report.markdown(report.load(folder))
    for name in (*TYPES, "q8_0/turbo3"):
        assert f" {name} " in text


def test_the_vectorized_quantizer_stores_what_the_reference_does(ready: Prepared) -> None:
    codec = native.NativeCodec(ready.build.bin_dir)
    values = np.random.default_rng(1).standard_normal(64 * 256, dtype=np.float32)
    for name in ("turbo4", "turbo3"):
        assert codec.quantize(name, values) == codec.quantize(name, values, reference=True)
