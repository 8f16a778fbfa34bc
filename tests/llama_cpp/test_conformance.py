"""The conformance of the CPU backend, on a part of its cases, and that faults planted in its kernels are seen."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from turbobench import stack
from turbobench.build import Build
from turbobench.conformance.cases import RowCase, all_cases
from turbobench.conformance.faults import FAULTS, Fault, try_fault
from turbobench.conformance.finding import Finding
from turbobench.conformance.units import OP_UNITS, OpUnit, find_device, run_cases, run_op_unit
from turbobench.conformance.verify import verify
from turbobench.errors import BuildError, DeviceMissingError
from turbobench.stack import PatchedTree

# Each type as K and as V, each of ours with both; the whole list takes minutes (`turbobench verify`).
ATTENTION = (
    "turbo4/turbo3 64",
    "turbo3/turbo4 128",
    "q8_0/turbo4 192/128",
    "turbo4/f16 256",
    "q5_0/q4_0 64",
    "q4_0/q8_0 64",
    "f16/q5_0 64",
    "bf16/bf16 64",
    "q5_1/q5_1 64",
    "q4_1/q4_1 64",
    "iq4_nl/iq4_nl 64",
    "turbo3t/turbo3t 64",
    "f16/f16 64",
)
ROWS = [case.id for case in all_cases() if isinstance(case, RowCase)]
no_shell = pytest.mark.skipif(sys.platform == "win32", reason="the build's commands are those of a shell")


@pytest.fixture
def tree(cpu_build: Build) -> PatchedTree:
    return stack.tree_at(cpu_build.bin_dir.parent.parent)


def _run(build: Build, *ids: str) -> dict[str, Finding]:
    found: list[Finding] = []
    run_cases(build, ids, found.append)
    return {case.case: case for case in found}


def test_rows_are_those_of_the_golden_vectors_and_the_numpy_codec(cpu_build: Build) -> None:
    found = _run(cpu_build, *ROWS)
    assert sorted(found) == sorted(ROWS)
    assert {case.outcome for case in found.values()} == {"passed"}, found


def test_attention_of_each_type_is_that_of_float64(cpu_build: Build) -> None:
    ids = [f"FLASH_ATTN_EXT {name}" for name in ATTENTION]
    found = _run(cpu_build, *ids)
    assert sorted(found) == sorted(ids)
    assert {case.outcome for case in found.values()} == {"passed"}, found


@pytest.mark.parametrize("unit", [unit for unit in OP_UNITS if unit.on_cpu], ids=lambda unit: unit.id)
def test_llama_cpp_finds_its_fast_paths_equal_to_its_reference(cpu_build: Build, unit: OpUnit) -> None:
    found = run_op_unit(cpu_build, unit, find_device(cpu_build).name)
    assert found.outcome == "passed", found.reason
    assert found.n_checks > (20 if unit.about == "K turbo3t" else 50)  # plain C encodes that type slowly: few cases


@no_shell
@pytest.mark.parametrize("fault", FAULTS["cpu"], ids=lambda fault: fault.name)
def test_a_planted_fault_is_seen(cpu_build: Build, tree: PatchedTree, fault: Fault) -> None:
    (found,) = try_fault(cpu_build, tree, fault)
    assert found.outcome == "failed", found
    assert "is right" in found.reason  # a wrong value, not a crash


@no_shell
def test_a_crash_of_a_kernel_is_a_failure_and_the_next_case_is_run(cpu_build: Build, tree: PatchedTree) -> None:
    fault = Fault(
        name="the encoder of turbo4 aborts",
        file="src/ggml-cpu/turbo-quants.c",
        pattern=r"(?=        y\[ib\]\.d = turbo_scale_bits\(&f, turbo4_search_book)",
        instead='        GGML_ABORT("planted");\n',
        library="ggml-cpu",
        rebuilt=("/turbo-quants.c.o",),
        cases=("SET_ROWS turbo4", "GET_ROWS turbo4"),
    )
    crashed, passed = try_fault(cpu_build, tree, fault)
    assert (crashed.case, crashed.outcome) == ("SET_ROWS turbo4", "failed")
    assert "killed by SIGABRT" in crashed.reason
    assert (passed.case, passed.outcome) == ("GET_ROWS turbo4", "passed")


@no_shell
def test_a_fault_without_a_place_is_an_error(cpu_build: Build, tree: PatchedTree) -> None:
    fault = replace(FAULTS["cpu"][0], pattern="no such text", instead="")
    with pytest.raises(BuildError, match="0 places for the fault"):
        try_fault(cpu_build, tree, fault)


def test_a_cpu_build_has_no_gpu(cpu_build: Build, tmp_path: Path) -> None:
    with pytest.raises(DeviceMissingError, match="finds no cuda device here, only: CPU"):
        verify(replace(cpu_build, backend="cuda"), tmp_path)
