"""The kernel for short contexts on NVIDIA GPUs, run on the CPU: from projections to output, not how fast.

Our sources and their harness are compiled as C++, as for the decode kernel (test_decode_kernel.py): what the token
leaves in the cache and what attention makes of it are compared with float64.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cuda_host import on_cpu
from turbobench import stack
from turbobench.source import fetch, load_pin

pytestmark = pytest.mark.build  # needs llama.cpp's headers

_KERNELS = (
    *on_cpu.DECODE_KERNELS,
    *("attention-encode", "attention-source", "turbo-quants-encode", "fattn-short-kernel", "fattn-short-params"),
)
_CASES = 18


def _run(out: Path, *faults: on_cpu.Fault, early: bool) -> subprocess.CompletedProcess[str]:
    on_cpu.write_kernels(out, _KERNELS, faults)
    upstream = stack.apply(fetch(load_pin())).path / "ggml" / "src" / "ggml-cuda"
    (out / "cpy-utils.cuh").write_text((upstream / "cpy-utils.cuh").read_text("utf-8"), "utf-8")
    (out / "convert.cuh").write_text("static const int8_t kvalues_iq4nl[16] = {}; // not packed here\n", "utf-8")
    (out / "turbo-quants.cuh").write_text("", "utf-8")
    check = on_cpu.write_harness(out, "short_harness.cu")
    return on_cpu.run(check, out, ("-DEARLY_COPIES",) if early else (), "small")


@pytest.mark.parametrize("early", [True, False])
def test_the_kernel_agrees_with_float64(early: bool, tmp_path: Path) -> None:
    done = _run(tmp_path, early=early)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.count(" ok\n") == _CASES + 1  # and the last line, of all


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        pytest.param("min(place.split, p.more))*16", "0)*16", id="runs that overlap"),
        pytest.param("if (tiles.awaits(i, piece)) { barrier_wait(made, 0); }", "", id="the token's rows too early"),
        pytest.param("wait_for_copies<1>();", "", id="a tile read before it is there"),
        pytest.param("if (n_tiles > 1) { wait_for_tiles(false); }", "", id="a row that is made, and then fetched"),
    ],
)
def test_a_fault_is_seen(text: str, instead: str, tmp_path: Path) -> None:
    done = _run(tmp_path, ("fattn-short-kernel", text, instead), early=False)
    assert done.returncode != 0
    assert "WRONG" in done.stdout or "wait" in done.stderr
