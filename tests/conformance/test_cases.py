"""What is promised of each backend, and that the cases are all there."""

from __future__ import annotations

import re

import pytest

from turbobench import backends
from turbobench.conformance.cases import PROMISES, ROW_OPS, AttentionCase, RowCase, all_cases
from turbobench.conformance.faults import FAULTS
from turbobench.conformance.finding import Tally
from turbobench.conformance.units import unit_ids
from turbobench.ggml import REGISTRY
from turbobench.kernels import load_manifest
from turbobench.kvtypes import KV_TYPES
from turbobench.paths import kernels_dir


def test_ids_are_unique() -> None:
    ids = [case.id for case in all_cases()]
    assert len(ids) == len(set(ids))


def test_every_backend_has_a_promise_and_a_name_in_the_registry() -> None:
    assert set(backends.BACKENDS) <= set(PROMISES)
    assert set(PROMISES) == set(REGISTRY)


@pytest.mark.parametrize("backend", PROMISES)
def test_every_pair_and_head_size_that_is_promised_is_a_case(backend: str) -> None:
    promise = PROMISES[backend]
    found = {(*case.pair.types, case.heads) for case in all_cases() if isinstance(case, AttentionCase)}
    gpu_types = [name for name in promise.types if name in PROMISES["cuda"].types]
    for heads in promise.heads:
        for type_k in gpu_types:
            for type_v in gpu_types:
                assert (type_k, type_v, heads) in found


def test_both_of_our_types_are_promised_everywhere() -> None:
    for promise in PROMISES.values():
        assert {"turbo3", "turbo4", "f16", "q8_0"} <= set(promise.types)
        assert {"SET_ROWS", "GET_ROWS", "CPY from"} <= set(promise.row_ops)


def test_the_cpu_promises_every_type_of_a_sweep() -> None:
    assert set(PROMISES["cpu"].types) == set(KV_TYPES) - {"f32"}


def test_a_glob_chooses_cases() -> None:
    assert unit_ids("cpu", "SET_ROWS *") == ["SET_ROWS turbo3", "SET_ROWS turbo4", "SET_ROWS turbo3t"]
    assert unit_ids("cpu", "nothing") == []


def test_the_cpu_is_not_compared_with_itself() -> None:
    assert "test-backend-ops SET_ROWS turbo" not in unit_ids("cpu")
    assert "test-backend-ops SET_ROWS turbo" in unit_ids("cuda")


def test_a_type_of_the_cpu_alone_is_promised_by_it_alone() -> None:
    assert [backend for backend, promise in PROMISES.items() if "turbo3t" in promise.types] == ["cpu"]
    rows = [case for case in all_cases() if isinstance(case, RowCase) and case.type_name == "turbo3t"]
    assert len(rows) == len(ROW_OPS)
    assert all(case.promised(PROMISES["cpu"]) and not case.promised(PROMISES["cuda"]) for case in rows)
    unit = "test-backend-ops FLASH_ATTN_EXT K turbo3t"
    assert unit in unit_ids("cpu")
    assert unit not in unit_ids("cuda")


def test_the_cases_that_must_see_a_fault_exist() -> None:
    ids = {case.id for case in all_cases()}
    for backend, faults in FAULTS.items():
        for fault in faults:
            assert set(fault.cases) <= ids, backend


def test_each_fault_of_a_kernel_file_of_ours_has_its_one_place() -> None:
    ours = {file.dest: file.path for file in load_manifest(kernels_dir())}
    found = 0
    for fault in (fault for faults in FAULTS.values() for fault in faults):
        path = ours.get(f"ggml/{fault.file}")  # the others are llama.cpp's, with a hook of ours
        if path is not None:
            assert len(re.findall(fault.pattern, path.read_text("utf-8"))) == 1, fault.name
            found += 1
    assert found >= 11


def test_an_error_above_its_bound_fails_and_one_at_it_passes() -> None:
    tally = Tally()
    tally.take("NMSE", 0.5, 0.5, "here")
    assert tally.finding("c").outcome == "passed"
    tally.take("NMSE", 0.6, 0.5, "there")
    found = tally.finding("c")
    assert (found.outcome, found.n_checks, found.worst) == ("failed", 2, {"NMSE": 0.6})
    assert found.reason == "there: NMSE 0.6, at most 0.5 is right"


def test_no_number_fails() -> None:
    tally = Tally()
    tally.take("NMSE", float("nan"), 0.5, "here")
    found = tally.finding("c")
    assert (found.outcome, found.worst) == ("failed", {"NMSE": float("inf")})


def test_a_case_without_a_comparison_fails() -> None:
    assert Tally().finding("c").reason == "nothing was compared"
