"""HIP's detection on output written after ROCm's documents: there was no AMD GPU to capture it from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_tools
from turbobench.backends import hip
from turbobench.errors import ConfigError
from turbobench.toolchain import find_compiler

ROCMINFO = """\
ROCk module is loaded
=====================
HSA Agents
=====================
*******
Agent 1
*******
  Name:                    AMD Ryzen 9 7950X 16-Core Processor
  Uuid:                    CPU-XX
  Marketing Name:          AMD Ryzen 9 7950X 16-Core Processor
  Device Type:             CPU
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: FINE GRAINED
      Size:                    65000000(0x3dfd240) KB
*******
Agent 2
*******
  Name:                    gfx1100
  Uuid:                    GPU-0123456789abcdef
  Marketing Name:          Radeon RX 7900 XTX
  Vendor Name:             AMD
  Device Type:             GPU
  Pool Info:
    Pool 1
      Segment:                 GLOBAL; FLAGS: COARSE GRAINED
      Size:                    25149440(0x17fc000) KB
*** Done ***
"""


@pytest.fixture(autouse=True)
def rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_tools.no_gpu_settings(monkeypatch)
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "rocm"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'rocm' / 'bin'}:/usr/bin:/bin")
    return tmp_path / "rocm"


def _clang(rocm: Path) -> None:
    fake_tools.script(rocm / "llvm" / "bin", "clang++", "echo 'AMD clang version 19.0.0'")


def test_only_gpu_agents_are_gpus() -> None:
    (found,) = hip.parse_rocminfo(ROCMINFO, "6.10.5")
    assert (found.name, found.arch, found.memory_mib, found.driver) == (
        "Radeon RX 7900 XTX",
        "gfx1100",
        24560,
        "6.10.5",
    )


def test_the_enumerator_serves_where_rocminfo_is_missing(rocm: Path) -> None:
    fake_tools.script(rocm / "bin", "rocm_agent_enumerator", "echo gfx000; echo gfx90a")
    assert [gpu.arch for gpu in hip.gpus()] == ["gfx90a"]


def test_without_rocm_the_places_that_were_searched_are_named(rocm: Path) -> None:
    reason = hip.unavailable(("gfx1100",)) or ""
    assert "no ROCm" in reason
    assert str(rocm / "llvm" / "bin") in reason


def test_an_old_rocm_is_refused(rocm: Path) -> None:
    _clang(rocm)
    (rocm / ".info").mkdir()
    (rocm / ".info" / "version").write_text("5.7.1-98\n")
    assert "ROCm 5.7" in (hip.unavailable(("gfx1100",)) or "")


def test_a_compiler_and_a_named_architecture_are_enough_to_compile(rocm: Path) -> None:
    _clang(rocm)
    assert "--arch gfx1100" in (hip.unavailable() or "")
    assert hip.unavailable(("gfx1100",)) is None
    compiler = hip.device_compiler()
    assert compiler is not None
    assert compiler.version == "AMD clang version 19.0.0"


def test_every_build_says_that_the_backend_was_never_run(cache: Path) -> None:
    compiler = find_compiler()
    assert any("never run" in note for note in hip.notes(compiler))
    assert "-DGPU_TARGETS=gfx1100;gfx942" in hip.cmake_flags(compiler, ("gfx1100", "gfx942"))


@pytest.mark.parametrize("text", ["90", "gfx", "gfx1100;gfx942", "RX 7900"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no AMD architecture"):
        hip.arch(text)
