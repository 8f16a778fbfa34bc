"""The decode kernel for NVIDIA GPUs, run on the CPU: what its threads compute and what they wait for, not how fast.

Our sources and their harness are compiled as C++, with stand-ins for upstream's common.cuh, for CUDA's runtime and for
the instructions that have no word in C++, and compared with float64. Each warp runs as far as it can before the next
one does. A copy arrives at once, or when nobody can go on without it: if a stage of the ring were filled while a warp
still reads it, or read before it is filled, values would be wrong or threads would wait forever.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cuda_host import on_cpu

pytestmark = pytest.mark.build  # needs llama.cpp's headers

_CASES = 21

WAYS = {
    "Ampere, late": (),
    "Ampere, early": ("-DEARLY_COPIES",),
    "Hopper, late": ("-DBULK_COPIES",),
    "Hopper, early": ("-DBULK_COPIES", "-DEARLY_COPIES"),
}


def _run(out: Path, way: str, *faults: on_cpu.Fault) -> subprocess.CompletedProcess[str]:
    """Compile the harness and run its small cases."""
    on_cpu.write_kernels(out, on_cpu.DECODE_KERNELS, faults)
    check = on_cpu.write_harness(out, "fattn_harness.cu")
    return on_cpu.run(check, out, WAYS[way], "small")


@pytest.mark.parametrize("way", WAYS)
def test_the_kernel_agrees_with_float64(way: str, tmp_path: Path) -> None:
    done = _run(tmp_path, way)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.count(" ok\n") == _CASES + 1  # and the last line, of all


@pytest.mark.parametrize(
    ("way", "header", "text", "instead"),
    [
        pytest.param(
            "Hopper, early",
            "fattn-decode-ring",
            "if (index > first) { barrier_wait(&freed[before], (stage == 0 ? turn - 1 : turn) & 1); }",
            "",
            id="a stage filled while it is read",
        ),
        pytest.param(
            "Ampere, late",
            "fattn-decode-ring",
            "void wait() const { barrier_wait(&ready[stage], turn & 1); }",
            "void wait() const {}",
            id="a stage read before it is filled",
        ),
        pytest.param(
            "Hopper, early",
            "fattn-decode-ring",
            "if (first + i == fresh_k || first + i == fresh_v) { fattn_decode_wait_for_predecessor(); }",
            "",
            id="the token's own rows not waited for",
        ),
        pytest.param(
            "Hopper, late",
            "fattn-decode-combine",
            "__syncthreads();\n        if (place.part < n) {",
            "if (place.part < n) {",
            id="parts added before they are there",
        ),
    ],
)
def test_a_fault_is_seen(way: str, header: str, text: str, instead: str, tmp_path: Path) -> None:
    done = _run(tmp_path, way, (header, text, instead))
    assert done.returncode != 0
    assert "WRONG" in done.stdout or "wait" in done.stderr
