"""What nvidia-smi prints, in the forms that its documents name."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests import fake_tools
from tests.fake_tools import H200, RTX_4090
from turbobench import nvidia


@pytest.fixture(autouse=True)
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.first_on_path(monkeypatch, tmp_path / "bin")
    return tmp_path / "bin"


def test_a_gpu_is_read_with_its_architecture_memory_and_driver(bin_dir: Path) -> None:
    fake_tools.nvidia_smi(bin_dir, H200)
    (found,) = nvidia.gpus()
    assert (found.name, found.arch, found.memory_mib, found.driver) == ("NVIDIA H200", "90", 143771, "580.65.06")


def test_a_name_may_hold_a_comma_and_a_capability_two_digits() -> None:
    (found,) = nvidia.parse_gpus("12.0, GPU-1, 97887 MiB, 590.1, NVIDIA RTX PRO 6000, Server Edition\n")
    assert (found.name, found.arch) == ("NVIDIA RTX PRO 6000, Server Edition", "120")


@pytest.mark.parametrize(
    "line",
    [
        "No devices were found",
        "[N/A], GPU-1, 2002 MiB, 390.1, GeForce 9800",
        'Field "compute_cap" is not a valid field to query.',
        "",
    ],
)
def test_a_line_without_a_capability_is_no_gpu(line: str) -> None:
    assert nvidia.parse_gpus(line) == ()


def test_what_a_driver_does_not_know_is_left_empty() -> None:
    (found,) = nvidia.parse_gpus("9.0, GPU-1, [N/A], [N/A], NVIDIA GH200\n")
    assert (found.memory_mib, found.driver) == (None, "")


def test_hidden_gpus_are_not_found_and_the_reason_names_the_setting(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools.nvidia_smi(bin_dir, H200, RTX_4090)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.arch for gpu in nvidia.gpus()] == ["89"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert nvidia.gpus() == ()
    assert "CUDA_VISIBLE_DEVICES= leaves none of 2 GPUs" in nvidia.no_gpu_reason()


def test_a_driver_that_does_not_answer_is_quoted(bin_dir: Path) -> None:
    said = "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver."
    fake_tools.script(bin_dir, "nvidia-smi", f"echo '{said}'; exit 9")
    assert nvidia.gpus() == ()
    assert said in nvidia.no_gpu_reason()


def test_no_driver_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia.gpus() == ()
    assert "no nvidia-smi" in nvidia.no_gpu_reason()


def test_memory_is_sampled_while_the_body_runs_and_not_after(bin_dir: Path) -> None:
    fake_tools.nvidia_smi(bin_dir, H200, used_mib=(600, 700, 5600, 650))
    with nvidia.peak_memory() as peak:
        deadline = time.monotonic() + 10
        while peak.mib != 5000.0 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert peak.mib == 5000.0


def test_memory_that_cannot_be_seen_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with nvidia.peak_memory() as peak:
        pass
    assert peak.mib is None
