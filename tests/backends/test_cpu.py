from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from turbobench import host, proc
from turbobench.backends import cpu
from turbobench.toolchain import find_compiler

_HAS_AMX = "amx_tile" in host.cpu_flags()


def _ended(by: int) -> proc.Completed:
    return proc.Completed(argv=("x",), returncode=by, stdout="", tail=(), log=None, wall_s=0.1, timed_out=False)


def test_native_code_is_asked_for(cache: Path) -> None:
    assert "-DGGML_NATIVE=ON" in cpu.cmake_flags(find_compiler())


@pytest.mark.skipif(not _HAS_AMX, reason="this CPU has no AMX")
def test_amx_is_left_out_exactly_if_its_probe_fails(cache: Path) -> None:
    compiler = find_compiler()
    reason = cpu._probe_amx(compiler)
    assert bool(reason) == any("no_amx" in flag for flag in cpu.cmake_flags(compiler))
    assert bool(reason) == bool(cpu.notes(compiler))


@pytest.mark.skipif(not _HAS_AMX, reason="this CPU has no AMX")
@pytest.mark.parametrize("signal", [-4, -11, 132])
def test_after_a_crash_with_amx_it_is_left_out_from_then_on(cache: Path, signal: int) -> None:
    compiler = find_compiler()
    cpu._remember_amx(compiler, "")
    assert not any("no_amx" in flag for flag in cpu.cmake_flags(compiler))
    assert cpu.remedy(_ended(signal), compiler)
    assert any("no_amx" in flag for flag in cpu.cmake_flags(compiler))
    assert cpu.remedy(_ended(signal), compiler) is None


@pytest.mark.parametrize("returncode", [1, -6, -9])
def test_other_ends_have_no_remedy(cache: Path, returncode: int) -> None:
    assert cpu.remedy(_ended(returncode), find_compiler()) is None


@pytest.mark.skipif(not _HAS_AMX, reason="this CPU has no AMX")
def test_leaving_amx_out_keeps_the_other_instruction_sets(tmp_path: Path) -> None:
    cc = shutil.which("cc") or pytest.skip("no cc")
    macros = []
    for flags in ((), ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")):
        argv = (cc, *flags, "-march=native", "-dM", "-E", "-x", "c", "/dev/null")
        macros.append(set(proc.check(proc.Command(argv=argv)).stdout.splitlines()))
    assert all("AMX" in macro for macro in macros[0] - macros[1])
    assert not any("__AMX_INT8__" in macro for macro in macros[1])
