"""The vec kernel in its forms for AMD GPUs, run on the CPU: every way that turbo3 and turbo4 are K or V.

Upstream's kernel and our functions for it are compiled as C++ from the patched tree, with `include/common.cuh` in place
of upstream's, and compared with float64. What this cannot see: AMD's compiler and its instructions, the launch, speed.
None of it has run on an AMD GPU.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clang import OLDEST_WITH_HALVES, clang_for
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

pytestmark = [pytest.mark.hip, pytest.mark.build]  # needs llama.cpp's sources, though nothing of it is built

_TESTS = Path(__file__).parent.parent

# each file up to the line where its host code begins, which is not C++
_KERNEL_ENDS = {
    "fattn-vec.cuh": "template <int D, int cols_per_block",
    "fattn-common.cuh": "template <int ncols1>\n",
    "turbo-quants-decode.cuh": "",
    "fattn-vec-turbo.cuh": "",
}
# included, but what the kernel needs of them is in the common.cuh of here
_EMPTY = ("cache-to-fp16.cuh", "convert.cuh", "vecdotq.cuh")

FORMS = {
    "rdna": ("-DRDNA", "-DV_DOT2_F32_F16_AVAILABLE"),
    "cdna": ("-DV_DOT2_F32_F16_AVAILABLE",),
    "float": (),
}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + done.stderr[-4000:]


def _results(out: Path, form: str, *faults: tuple[str, str, str]) -> dict[str, str]:
    """Compile and run check_vec.cpp; return `ok` or `WRONG` by case. A fault is (file, text, what replaces it)."""
    clang = clang_for("the vec kernel as C++", OLDEST_WITH_HALVES)
    ggml = stack.apply(fetch(load_pin())).path / "ggml"
    for name, end in _KERNEL_ENDS.items():
        source = (ggml / "src" / "ggml-cuda" / name).read_text("utf-8")
        assert end in source, f"{name}: its kernels do not end with {end!r} any more"
        source = source.partition(end)[0] if end else source
        for file, text, instead in faults:
            assert file != name or text in source, f"{name} has no place for this fault any more: {text}"
            source = source.replace(text, instead) if file == name else source
        # a vector register of AMD's, in an empty instruction
        (out / name).write_text(source.replace('"+v"', '"+r"'), "utf-8")
    for name in _EMPTY:
        (out / name).write_text("")

    ref, common, shim = kernels_dir() / "ref", kernels_dir() / "common", _TESTS / "native" / "shim"
    metal = _TESTS / "metal_host"
    objects = []
    for c_source in (metal / "reference.c", ref / "turbo-quants-ref.c"):
        objects.append(str(out / f"{c_source.stem}.o"))
        include = [f"-I{folder}" for folder in (metal, shim, ref, common)]
        _run(clang, "-x", "c", "-std=c11", "-O2", *include, "-c", str(c_source), "-o", objects[-1])
    folders = (out, _TESTS / "hip" / "include", metal, metal / "include", ggml / "include", ggml / "src")
    program = out / "check_vec"
    options = ("-std=c++17", "-O1", "-w", "-ffp-contract=off", *FORMS[form], *(f"-I{folder}" for folder in folders))
    _run(clang, *options, str(_TESTS / "hip" / "check_vec.cpp"), *objects, "-o", str(program), "-lm")

    done = subprocess.run([program], capture_output=True, text=True, check=False)
    results = {line.split()[1].rstrip(":"): line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == int("WRONG" in results.values()), done.stdout[-2000:] + done.stderr[-2000:]
    return results


@pytest.mark.parametrize("form", FORMS)
def test_the_kernel_agrees_with_float64(form: str, tmp_path: Path) -> None:
    results = _results(tmp_path, form)
    assert set(results.values()) == {"ok"}, results
    pairs = {case.split("_d")[0] for case in results}
    assert {"turbo3/turbo3", "turbo4/turbo4", "f16/turbo4", "turbo3/f16", "q8_0/turbo4", "turbo4/q8_0"} <= pairs


def test_a_wrong_bit_of_a_code_is_seen(tmp_path: Path) -> None:
    plane = ("fattn-vec-turbo.cuh", "2*(r >> 1 & 1)", "0*(r >> 1 & 1)")  # turbo3: the high bits of other values
    half = ("turbo-quants-decode.cuh", "(codes >> 1 & 0x04040404)", "(codes >> 1 & 0x04040400)")  # turbo4: one in four
    results = _results(tmp_path, "cdna", plane, half)
    assert {case for case, told in results.items() if told == "WRONG"} == {case for case in results if "turbo" in case}
