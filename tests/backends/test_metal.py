"""Metal's detection on output written after Apple's documents: there was no Mac to capture it from."""

from __future__ import annotations

import json
import sys

import pytest

from tests import fake_tools
from turbobench.backends import cpu, cuda, metal
from turbobench.errors import ConfigError
from turbobench.toolchain import find_compiler

_M1_PRO = {
    "_name": "Apple M1 Pro",
    "spdisplays_mtlgpufamilysupport": "spdisplays_metal3",
    "sppci_cores": "16",
    "sppci_model": "Apple M1 Pro",
}
_OLD = {"_name": "Intel HD Graphics 3000", "sppci_model": "Intel HD Graphics 3000"}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(metal, "_profile", lambda: json.dumps({"SPDisplaysDataType": [_M1_PRO, _OLD]}))
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.6", ("", "", ""), "arm64"))


@pytest.mark.usefixtures("mac")
def test_gpus_that_know_metal_are_named_with_their_cores() -> None:
    assert metal.unavailable() is None
    assert metal.devices() == ("Apple M1 Pro, 16 cores, macOS 15.6",)


@pytest.mark.parametrize("printed", ["", "[]", "{}", "not JSON", '{"SPDisplaysDataType": null}'])
def test_output_that_is_no_list_of_gpus_names_none(printed: str) -> None:
    assert metal.parse_profiler(printed) == ()


def test_elsewhere_it_is_refused_and_the_system_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert metal.unavailable() == "Metal is part of macOS, and this is Linux"
    assert metal.gpus() == ()


@pytest.mark.usefixtures("mac")
def test_on_a_mac_only_the_metal_backend_builds_metal() -> None:
    compiler = find_compiler()
    assert {"-DGGML_METAL=OFF", "-DGGML_BLAS=OFF"} <= set(cpu.cmake_flags(compiler))
    flags = metal.cmake_flags(compiler)
    assert "-DGGML_BLAS=OFF" in flags
    assert "-DGGML_METAL=ON" in flags
    assert "-DGGML_METAL=OFF" not in flags


def test_elsewhere_builds_do_not_mention_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools.no_gpu_settings(monkeypatch)
    monkeypatch.setattr(sys, "platform", "linux")
    compiler = find_compiler()
    assert not any(
        "METAL" in flag or "BLAS" in flag for flag in (*cpu.cmake_flags(compiler), *cuda.cmake_flags(compiler, ("90",)))
    )


def test_architectures_are_refused() -> None:
    with pytest.raises(ConfigError, match="--arch m1"):
        metal.arch("m1")
