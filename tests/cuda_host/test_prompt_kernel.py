"""The kernel for prompts on NVIDIA GPUs, run on the CPU: what its threads compute and what they wait for, not how fast.

Our sources are compiled as C++, with stand-ins for upstream's common.cuh and for the instructions that have no word in
C++, and compared with float64. A copy arrives at once or when it is waited for: a missing barrier shows either way.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_host import on_cpu

pytestmark = pytest.mark.build  # needs llama.cpp's headers

_KERNEL = "fattn-prompt-kernel"


def _results(out: Path, *faults: tuple[str, str], early: bool) -> dict[str, str]:
    """Compile and run check_prompt.cpp; return `ok` or `WRONG` by case. A fault is (text, what replaces it)."""
    on_cpu.write_kernels(out, (_KERNEL,), tuple((_KERNEL, *fault) for fault in faults))
    (out / "fattn-common.cuh").write_text("")
    check = on_cpu.TESTS / "cuda_host" / "check_prompt.cpp"
    done = on_cpu.run(check, out, ("-DEARLY_COPIES",) if early else ())
    results = {line.split()[1].rstrip(":"): line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == int("WRONG" in results.values()), done.stdout[-2000:] + done.stderr[-2000:]
    return results


@pytest.mark.parametrize("early", [True, False])
def test_the_kernel_agrees_with_float64(early: bool, tmp_path: Path) -> None:
    results = _results(tmp_path, early=early)
    assert set(results.values()) == {"ok"}, results
    assert len(results) == 9


@pytest.mark.parametrize(
    ("text", "instead", "early"),
    [
        pytest.param("        __syncthreads(); // V is there", "        // V is there", False, id="V too early"),
        pytest.param("        __syncthreads(); // V is there", "        // V is there", True, id="K overwritten"),
        pytest.param(
            "        __syncthreads(); // K and its mask", "        // K and its mask", False, id="K too early"
        ),
        pytest.param("r.sum[i][h]*factor[i][h] + sum", "r.sum[i][h] + sum", True, id="old sums"),
    ],
)
def test_a_fault_is_seen(text: str, instead: str, early: bool, tmp_path: Path) -> None:
    assert "WRONG" in _results(tmp_path, (text, instead), early=early).values()
