"""The Metal kernels that are ours, run on the CPU through a stand-in for metal_stdlib, against the scalar reference.

What this cannot see: Metal's own front end and address spaces, fast math, the host code, speed. None of it has run on
Apple hardware.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.metal_host.msl_to_cpp import convert_folder
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

pytestmark = pytest.mark.build  # needs llama.cpp's own kernel files, though nothing of it is built

_HERE = Path(__file__).parent
_OLDEST_CLANG = 16  # the first with arithmetic in _Float16 on every machine of interest


def _version(clang: str) -> int:
    said = subprocess.run([clang, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"clang version (\d+)", said)
    return int(found.group(1)) if found else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The compiler, and the patched tree's `ggml/src`: upstream's kernel files, with ours beside them."""

    clang: str
    tree: Path


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    names = ("clang++", *(f"clang++-{version}" for version in range(30, _OLDEST_CLANG - 1, -1)))
    for clang in filter(None, map(shutil.which, names)):
        if _version(clang) >= _OLDEST_CLANG:
            return Workshop(clang=clang, tree=stack.apply(fetch(load_pin())).path / "ggml" / "src")
    pytest.skip(f"no clang++ of version {_OLDEST_CLANG} or newer on PATH: it compiles the Metal kernels as C++")


def _compile(check: str, workshop: Workshop, out: Path, fault: tuple[str, str, str] | None = None) -> Path:
    """Compile `check`.cpp with the kernel files of the tree as C++; `fault` = file, text, what stands there instead."""
    clang, tree = workshop.clang, workshop.tree
    kernels = out / "kernels"
    convert_folder(tree / "ggml-metal" / "kernels", kernels)
    if fault is not None:
        name, text, instead = fault
        source = (kernels / name).read_text("utf-8")
        assert source.count(text) == 1, f"{name} has the text of this fault {source.count(text)} times"
        (kernels / name).write_text(source.replace(text, instead), "utf-8")

    ref = kernels_dir() / "ref"
    reference = [out / "reference.o", out / "turbo-quants-ref.o"]
    shim = _HERE.parent / "native" / "shim"
    c_include = [f"-I{folder}" for folder in (_HERE, shim, ref, kernels_dir() / "common")]
    for source_file, to in zip((_HERE / "reference.c", ref / "turbo-quants-ref.c"), reference, strict=True):
        _run([clang, "-x", "c", "-std=c11", "-O2", *c_include, "-c", str(source_file), "-o", str(to)])

    # -w: upstream's kernels as C++ warn about much, such as `const const`
    include = [f"-I{folder}" for folder in (_HERE, _HERE / "include", kernels, tree / "ggml-metal", tree)]
    program = out / check
    _run(
        [
            clang, "-std=c++17", "-O1", "-ffp-contract=off", "-w", *include,
            str(_HERE / f"{check}.cpp"), *map(str, reference), "-o", str(program), "-lm",
        ]
    )  # fmt: skip
    return program


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + done.stderr[-4000:]


def _results(program: Path) -> dict[str, str]:
    """Return what the program says by check: `ok: ...` or `WRONG: ...`."""
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    results = {head.split(" ", 1)[1]: f"{head.split(' ', 1)[0]}: {detail}" for head, detail in lines}
    wrong = any(text.startswith("WRONG") for text in results.values())
    assert done.returncode == int(wrong), f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return results


def _wrong(results: dict[str, str]) -> set[str]:
    return {name for name, text in results.items() if not text.startswith("ok: ")}


def test_rows_are_written_and_read_as_the_reference_does(workshop: Workshop, tmp_path: Path) -> None:
    results = _results(_compile("check_rows", workshop, tmp_path))
    assert not _wrong(results), results
    for name in ("turbo3", "turbo4"):
        assert {f"kernel_set_rows_f32_i64_{name}", f"kernel_get_rows_{name}", f"kernel_cpy_{name}_f16"} <= set(results)


@pytest.mark.parametrize(
    ("fault", "found_in"),
    [
        (("turbo.metal", "code0 | code1 << 4", "code1 | code0 << 4"), "kernel_set_rows_f32_i64_turbo4"),
        (("turbo.metal", "simd_shuffle_xor(w, 8)", "simd_shuffle_xor(w, 4)"), "kernel_set_rows_f32_i64_turbo3"),
        (("turbo-dequantize.h", ">> 4*(il >> 3)", ">> 4*(1 - (il >> 3))"), "kernel_get_rows_turbo4"),
        (("turbo-dequantize.h", "2*(j >> 1) + (c & 1)", "2*(j & 1) + (c & 1)"), "kernel_cpy_turbo3_f32"),
    ],
    ids=["swapped nibbles written", "a plane of turbo3", "swapped nibbles read", "the third bit of turbo3"],
)
def test_a_planted_fault_in_rows_is_found(
    fault: tuple[str, str, str], found_in: str, workshop: Workshop, tmp_path: Path
) -> None:
    assert found_in in _wrong(_results(_compile("check_rows", workshop, tmp_path, fault)))
