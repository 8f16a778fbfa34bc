"""Compiles the codec kernels standalone (no llama.cpp tree), once per instruction set that this machine can run."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from turbobench.paths import kernels_dir

_HERE = Path(__file__).parent
_ARM_CC = "aarch64-linux-gnu-gcc"
_QEMU = "qemu-aarch64-static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """An instruction set: compiler flags, the CPU flags of /proc/cpuinfo that it needs, what the kernels call it."""

    name: str
    isa: str
    flags: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    arm: bool = False


_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")

VARIANTS = (
    Variant(name="generic", isa="generic"),
    Variant(name="avx2", isa="avx2", flags=("-mavx2", "-mfma", "-mf16c"), cpu_flags=("avx2", "fma", "f16c")),
    Variant(
        name="avx512",
        isa="avx512",
        flags=("-mf16c", "-mfma", *(f"-m{f}" for f in _AVX512)),
        cpu_flags=("f16c", "fma", *_AVX512),
    ),
    Variant(
        name="avx512-vnni-vbmi",
        isa="avx512",
        flags=("-mf16c", "-mfma", "-mavx512vnni", "-mavx512vbmi", *(f"-m{f}" for f in _AVX512)),
        cpu_flags=("f16c", "fma", "avx512_vnni", "avx512vbmi", *_AVX512),
    ),
    Variant(name="neon", isa="neon", flags=("-march=armv8-a",), arm=True),
    Variant(name="neon-dotprod", isa="neon", flags=("-march=armv8.2-a+dotprod",), arm=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A compiled `codec_driver.c`; `run` feeds it bytes and returns what it wrote."""

    command: tuple[str, ...]
    variant: Variant

    def run(self, *arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([*self.command, *arguments], input=data, stdout=subprocess.PIPE, check=True).stdout


def _compiler(variant: Variant) -> tuple[str, tuple[str, ...]]:
    """Return the compiler and the command prefix that runs its programs; skips where this machine lacks one."""
    machine = platform.machine().lower()
    host_is_arm = machine in ("aarch64", "arm64")
    if variant.arm and not host_is_arm:
        missing = [tool for tool in (_ARM_CC, _QEMU) if shutil.which(tool) is None]
        if missing:
            pytest.skip(f"{variant.name}: needs {' and '.join(missing)}")
        return _ARM_CC, (_QEMU, "-L", "/usr/aarch64-linux-gnu")
    if not variant.arm and host_is_arm:
        pytest.skip(f"{variant.name}: this is an ARM machine, whose compiler makes the NEON form")
    info = Path("/proc/cpuinfo")
    have = set(info.read_text("utf-8").split()) if info.is_file() else set()
    lacking = [flag for flag in variant.cpu_flags if flag not in have]
    if lacking:
        pytest.skip(f"{variant.name}: this CPU lacks {', '.join(lacking)}")
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        pytest.skip(f"{variant.name}: no C compiler")
    return cc, ()


@pytest.fixture(scope="session", params=VARIANTS, ids=lambda v: v.name)
def driver(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    variant: Variant = request.param
    cc, prefix = _compiler(variant)
    program = tmp_path_factory.mktemp(variant.name) / "codec_driver"
    kernels = kernels_dir()
    references = [kernels / "ref" / name for name in ("turbo-quants-ref.c", "turbo-trellis-ref.c")]
    fast = [kernels / "cpu" / name for name in ("turbo-quants.c", "turbo-trellis.c")]
    sources = (*references, *fast, _HERE / "codec_driver.c")
    includes = (_HERE / "shim", kernels / "common", kernels / "ref", kernels / "cpu")
    subprocess.run(
        [
            cc, "-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", *variant.flags, *(f"-I{i}" for i in includes),
            *map(str, sources), "-o", str(program), "-lm",
        ],
        check=True,
    )  # fmt: skip
    return Driver(command=(*prefix, str(program)), variant=variant)
