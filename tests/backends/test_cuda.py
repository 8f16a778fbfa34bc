from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import fake_tools
from tests.fake_tools import H200, RTX_4090
from turbobench.backends import cpu, cuda
from turbobench.errors import ConfigError
from turbobench.toolchain import find_compiler


@pytest.fixture(autouse=True)
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.first_on_path(monkeypatch, tmp_path / "bin")
    fake_tools.script(tmp_path / "bin", "nvidia-smi", "exit 9")
    return tmp_path / "bin"


def test_a_gpu_and_a_toolkit_that_knows_it_are_enough(bin_dir: Path) -> None:
    fake_tools.nvidia_smi(bin_dir, H200)
    fake_tools.nvcc(bin_dir, 80, 90)
    assert cuda.unavailable() is None
    assert cuda.devices() == ("NVIDIA H200 (90, 140 GiB), driver 580.65.06",)


def test_without_a_toolkit_the_places_that_were_searched_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setattr(cuda, "_USUAL", tmp_path / "usual")
    reason = cuda.unavailable(("90",)) or ""
    assert "no CUDA toolkit" in reason
    assert str(tmp_path / "cuda" / "bin") in reason
    assert str(tmp_path / "usual") in reason


def test_a_toolkit_beside_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fake_tools.nvcc(tmp_path / "cuda" / "bin", 90)
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "cuda"))
    monkeypatch.setattr(shutil, "which", _only_below(tmp_path / "cuda"))
    device_compiler = cuda.device_compiler()
    assert device_compiler is not None
    assert device_compiler.version == "nvcc 13.0.88"
    assert device_compiler.cmake_flags == (f"-DCMAKE_CUDA_COMPILER={found}",)


def _only_below(folder: Path) -> object:
    def which(name: str, path: str | None = None) -> str | None:
        return str(Path(path) / name) if path and Path(path).is_relative_to(folder) else None

    return which


def test_a_toolkit_older_than_the_gpu_is_refused_with_what_it_knows(bin_dir: Path) -> None:
    fake_tools.nvcc(bin_dir, 70, 80, release="11.4")
    reason = cuda.unavailable(("90",)) or ""
    assert "CUDA 11.4.88 cannot compile for 90 (it knows 70, 80)" in reason
    assert "newer" in reason


def test_a_gpu_that_the_toolkit_no_longer_knows_is_refused(bin_dir: Path) -> None:
    fake_tools.nvcc(bin_dir, 75, 90)
    assert "cannot compile for 61" in (cuda.unavailable(("61",)) or "")


def test_without_a_gpu_the_way_to_compile_all_the_same_is_named(bin_dir: Path) -> None:
    fake_tools.nvcc(bin_dir, 90)
    assert "--arch 90" in (cuda.unavailable() or "")
    assert cuda.unavailable(("90",)) is None


def test_an_nvcc_that_does_not_run_is_not_one(bin_dir: Path) -> None:
    fake_tools.script(bin_dir, "nvcc", "exit 1")
    assert "--list-gpu-arch" in (cuda.unavailable(("90",)) or "")


@pytest.mark.parametrize(("text", "name"), [("90", "90"), ("sm_90", "90"), ("90a", "90a"), ("120", "120")])
def test_architectures_are_taken_as_people_write_them(text: str, name: str) -> None:
    assert cuda.arch(text) == name


@pytest.mark.parametrize("text", ["9.0", "hopper", "gfx1100", "90;80", ""])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no CUDA architecture"):
        cuda.arch(text)


def test_the_flags_hold_those_of_the_cpu_and_the_attention_pairs(cache: Path) -> None:
    compiler = find_compiler()
    flags = cuda.cmake_flags(compiler, ("80", "90"))
    assert set(cpu.cmake_flags(compiler)) < set(flags)
    assert "-DCMAKE_CUDA_ARCHITECTURES=80;90" in flags
    assert "-DGGML_CUDA_FA_QUANTS=f16-f16;bf16-bf16" in flags
    assert any("build time" in note for note in cuda.notes(compiler))


def test_two_kinds_of_gpu_are_both_compiled_for(bin_dir: Path) -> None:
    fake_tools.nvidia_smi(bin_dir, H200, RTX_4090)
    assert [gpu.arch for gpu in cuda.gpus()] == ["90", "89"]
