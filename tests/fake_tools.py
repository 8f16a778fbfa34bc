"""Programs of GPU vendors as shell scripts on PATH. What they print is written after their documents, not captured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

H200 = "9.0, GPU-aaaa1111-0000-0000-0000-000000000001, 143771 MiB, 580.65.06, NVIDIA H200"
RTX_4090 = "8.9, GPU-bbbb2222-0000-0000-0000-000000000002, 24564 MiB, 580.65.06, NVIDIA GeForce RTX 4090"


def script(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def nvidia_smi(folder: Path, *gpus: str, used_mib: tuple[int, ...] = (100,)) -> Path:
    """Write one that lists `gpus`, and gives `used_mib` for the memory of the first in turn, one a call or tick."""
    uuid = gpus[0].split(", ")[1] if gpus else ""
    listing = "\n".join(gpus)
    ticks = "; ".join(f"echo '{uuid}, {mib}'" for mib in used_mib[1:]) or ":"
    body = f"""case "$*" in
*compute_cap*) cat <<'END'
{listing}
END
;;
*-lms*) {ticks}; sleep 60 ;;
*memory.used*) echo '{uuid}, {used_mib[0]}' ;;
esac"""
    return script(folder, "nvidia-smi", body)


def nvcc(folder: Path, *archs: int, release: str = "13.0") -> Path:
    listing = "\n".join(f"compute_{arch}" for arch in archs)
    body = f"""case "$1" in
--version) echo 'Cuda compilation tools, release {release}, V{release}.88' ;;
--list-gpu-arch) cat <<'END'
{listing}
END
;;
esac"""
    return script(folder, "nvcc", body)


def first_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def no_gpu_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the developer's own environment says about GPUs."""
    toolkits = ("CUDA_HOME", "CUDA_PATH", "HIPCXX", "ROCM_PATH", "VULKAN_SDK")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", *toolkits):
        monkeypatch.delenv(name, raising=False)
