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

from tests.clang import OLDEST_WITH_HALVES, clang_for
from tests.cuda_host.cuda_to_cpp import harness, kernels
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

pytestmark = pytest.mark.build  # needs llama.cpp's headers

_TESTS = Path(__file__).parent.parent
_KERNELS = (
    *("attention-row", "turbo-quants-decode", "fattn-decode-kernel", "fattn-decode-columns", "fattn-decode-combine"),
    *("fattn-decode-place", "fattn-decode-ring", "fattn-decode-scores", "fattn-decode-values", "fattn-decode-loaders"),
    *("fattn-decode-query", "fattn-decode-params"),
)
_CASES = 12

WAYS = {
    "Ampere, late": (),
    "Ampere, early": ("-DEARLY_COPIES",),
    "Hopper, late": ("-DBULK_COPIES",),
    "Hopper, early": ("-DBULK_COPIES", "-DEARLY_COPIES"),
}


def _run(out: Path, way: str, *faults: tuple[str, str, str]) -> subprocess.CompletedProcess[str]:
    """Compile the harness and run its small cases. A fault is (header, text, what replaces it)."""
    clang = clang_for("the decode kernel as C++", OLDEST_WITH_HALVES)
    ggml = stack.apply(fetch(load_pin())).path / "ggml"
    for name in _KERNELS:
        source = kernels((kernels_dir() / "cuda" / f"{name}.cuh").read_text("utf-8"))
        for header, text, instead in faults:
            assert header != name or text in source, f"{name} has no place for this fault any more: {text}"
            source = source.replace(text, instead) if header == name else source
        (out / f"{name}.cuh").write_text(source, "utf-8")
    native = _TESTS / "native" / "cuda"
    (out / "cache_formats.cuh").write_text((native / "cache_formats.cuh").read_text("utf-8"), "utf-8")
    program = out / "harness"
    program.with_suffix(".cpp").write_text(harness((native / "fattn_harness.cu").read_text("utf-8")), "utf-8")
    metal, hip, here = _TESTS / "metal_host", _TESTS / "hip", _TESTS / "cuda_host"
    folders = (out, here / "include", hip / "include", metal, metal / "include", kernels_dir() / "common")
    include = [f"-I{folder}" for folder in (*folders, ggml / "include", ggml / "src")]
    options = ("-std=c++17", "-O1", "-w", "-ffp-contract=off", *WAYS[way])
    command = [clang, *options, *include, str(program.with_suffix(".cpp")), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return subprocess.run([program, "small"], capture_output=True, text=True, check=False)


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
    ],
)
def test_a_fault_is_seen(way: str, header: str, text: str, instead: str, tmp_path: Path) -> None:
    done = _run(tmp_path, way, (header, text, instead))
    assert done.returncode != 0
    assert "WRONG" in done.stdout or "wait" in done.stderr
