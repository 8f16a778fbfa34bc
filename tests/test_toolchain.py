from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from turbobench import toolchain
from turbobench.errors import ToolchainError


def _program(folder: Path, name: str, prints: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def test_the_compiler_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, str(_program(tmp_path / "bin", variable, f"my {variable} 9.1")))
    assert toolchain.find_compiler().version == "my CXX 9.1"


def test_without_a_compiler_the_reason_names_a_way_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ToolchainError, match="there is no C and C") as missing:
        toolchain.find_compiler()
    assert missing.value.hint


def test_a_cmake_that_is_too_old_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _program(tmp_path / "bin", "cmake", "cmake version 3.10.2")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    assert toolchain.system_cmake((3, 14)) is None
    assert toolchain.system_cmake((3, 10)) == found


def test_the_needed_cmake_is_read_from_the_tree(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.14...3.28) # for add_link_options\n")
    assert toolchain.cmake_minimum(tmp_path) == (3, 14)


@pytest.mark.parametrize(("text", "version"), [("1.11.1.git.kitware", (1, 11, 1)), ("ccache version 4.7", (4, 7))])
def test_versions_are_read_as_the_tools_print_them(tmp_path: Path, text: str, version: tuple[int, ...]) -> None:
    assert toolchain.version_of(_program(tmp_path / "bin", "tool", text)) == version


def test_a_broken_program_has_no_version(tmp_path: Path) -> None:
    assert toolchain.version_of(tmp_path / "missing") is None


@pytest.mark.parametrize("name", ["cmake", "ninja"])
def test_the_projects_own_bounds_are_what_is_installed(name: str) -> None:
    assert ">=" in toolchain._requirement(name)


def test_a_checkout_that_is_not_installed_has_no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert toolchain._requirement("cmake") == "cmake"
