"""Attention of the CPU backend on ARM: ggml cross-compiled, every pair of cache types under qemu, against float64."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest

from turbobench import stack
from turbobench.source import fetch, load_pin
from turbobench.toolchain import find_tools

pytestmark = [pytest.mark.arm, pytest.mark.build]

_HERE = Path(__file__).parent
_CROSS = "aarch64-linux-gnu-"
_QEMU = "qemu-aarch64-static"
_TYPES = ("f16", "q8_0", "q5_0", "q4_0", "turbo4", "turbo3", "turbo3t")
_OFF = (
    "GGML_NATIVE", "GGML_OPENMP", "GGML_LLAMAFILE", "GGML_CPU_REPACK", "BUILD_SHARED_LIBS", "LLAMA_BUILD_COMMON",
    "LLAMA_BUILD_TESTS", "LLAMA_BUILD_TOOLS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER",
)  # fmt: skip


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile ggml's CPU backend for ARMv8.2 with dot products, and the check; about a minute of CPU time."""
    missing = [tool for tool in (f"{_CROSS}g++", _QEMU) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    tree, out = stack.apply(fetch(load_pin())).path, tmp_path_factory.mktemp("arm")
    tools = find_tools(tree)
    _run(
        str(tools.cmake), "-S", str(tree), "-B", str(out), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={_CROSS}gcc", f"-DCMAKE_CXX_COMPILER={_CROSS}g++",
        "-DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16", *(f"-D{option}=OFF" for option in _OFF),
    )  # fmt: skip
    _run(str(tools.cmake), "--build", str(out), "--target", "ggml-cpu")
    libraries = [str(next(out.rglob(name))) for name in ("libggml-cpu.a", "libggml-base.a")]
    check = out / "attention_check"
    flags = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-I", str(tree / "ggml" / "include"))
    source = str(_HERE / "attention_check.cpp")
    _run(f"{_CROSS}g++", *flags, source, "-o", str(check), *libraries, "-lpthread", "-lm")
    return check


def _check(program: Path, *arguments: str) -> dict[str, bool]:
    """Return whether each case agrees."""
    argv = [_QEMU, "-L", "/usr/aarch64-linux-gnu", str(program), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    cases = {line.split(": ", 1)[1]: line.startswith("ok: ") for line in done.stdout.splitlines()}
    assert done.returncode == int(not all(cases.values())), done.stdout[-2000:] + done.stderr[-2000:]
    return cases


def test_attention_agrees_with_float64_for_every_pair(program: Path) -> None:
    cases = _check(program)
    assert {case.split()[0] for case in cases} == {f"{k}/{v}" for k, v in product(_TYPES, _TYPES)} - {"f16/f16"}
    assert not [case for case, ok in cases.items() if not ok]


def test_a_wrong_code_in_each_block_of_v_is_seen(program: Path) -> None:
    cases = _check(program, "corrupt")
    seen = [case for case, ok in cases.items() if not ok]
    assert seen == [case for case in cases if "/f16 " not in case]
