"""The steps that 32 threads of a GPU take to encode a block, one after another on the CPU: the reference's bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from turbobench.paths import kernels_dir

_HERE = Path(__file__).parent


def test_the_gpu_encoder_makes_the_reference_bytes(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the encoder for GPUs is CUDA source")
    program = tmp_path / "harness"
    folders = [_HERE / "shim", *(kernels_dir() / name for name in ("common", "ref", "cuda"))]
    include = [argument for folder in folders for argument in ("-I", str(folder))]
    source = str(_HERE / "cuda" / "turbo_ops_harness.cu")
    subprocess.run([nvcc, "-O2", "-std=c++17", *include, source, "-o", str(program)], check=True)
    done = subprocess.run([program, "--host"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("encode") >= 2  # both types
    assert "WRONG" not in done.stdout
