"""The kernel for prompts on NVIDIA GPUs, run on the CPU: what its threads compute and what they wait for, not how fast.

Our sources are compiled as C++, with stand-ins for upstream's common.cuh and for the instructions that have no word in
C++, and compared with float64. A copy arrives at once or when it is waited for: a missing barrier shows either way.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clang import clang_for
from tests.cuda_host.cuda_to_cpp import kernels
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

pytestmark = pytest.mark.build  # needs llama.cpp's headers

_TESTS = Path(__file__).parent.parent
_OLDEST_CLANG = 16  # the first with arithmetic in _Float16 on every machine of interest


def _results(out: Path, *faults: tuple[str, str], early: bool) -> dict[str, str]:
    """Compile and run check_prompt.cpp; return `ok` or `WRONG` by case. A fault is (text, what replaces it)."""
    clang = clang_for("the prompt kernel as C++", _OLDEST_CLANG)
    ggml = stack.apply(fetch(load_pin())).path / "ggml"
    source = kernels((kernels_dir() / "cuda" / "fattn-prompt-kernel.cuh").read_text("utf-8"))
    for text, instead in faults:
        assert text in source, f"the kernel has no place for this any more: {text}"
        source = source.replace(text, instead)
    (out / "fattn-prompt-kernel.cuh").write_text(source, "utf-8")
    (out / "fattn-common.cuh").write_text("")
    here = _TESTS / "cuda_host"
    folders = (
        out,
        here / "include",
        _TESTS / "hip" / "include",
        _TESTS / "metal_host",
        _TESTS / "metal_host" / "include",
    )
    include = [f"-I{folder}" for folder in (*folders, ggml / "include", ggml / "src")]
    program = out / "check_prompt"
    options = ("-std=c++17", "-O1", "-w", "-ffp-contract=off", *(["-DEARLY_COPIES"] if early else []))
    done = subprocess.run(
        [clang, *options, *include, str(here / "check_prompt.cpp"), "-o", str(program), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    results = {line.split()[1].rstrip(":"): line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == int("WRONG" in results.values()), done.stdout[-2000:] + done.stderr[-2000:]
    return results


@pytest.mark.parametrize("early", [True, False])
def test_the_kernel_agrees_with_float64(early: bool, tmp_path: Path) -> None:
    results = _results(tmp_path, early=early)
    assert set(results.values()) == {"ok"}, results
    assert len(results) == 6


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
