"""The HIP backend for AMD GPUs, from the same sources as CUDA's. We have never run it: we have no such GPU."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from turbobench import proc
from turbobench.backends import cpu
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory, visible
from turbobench.toolchain import Compiler, DeviceCompiler, Version

N_GPU_LAYERS: int | None = 99
CMAKE_MINIMUM: Version = (3, 21)  # of ggml/src/ggml-hip/CMakeLists.txt, for the language HIP
_ROCM_MINIMUM: Version = (6, 1)  # of the same file

_USUAL = Path("/opt/rocm")
_DRIVER = Path("/sys/module/amdgpu/version")
_ARCH = re.compile(r"gfx[0-9a-f]{3,4}")
_FA_NOTE = (
    "AMD GPUs decode with llama.cpp's vec kernel, compiled for every pair of f16, q8_0, q5_0, q4_0, turbo4 and turbo3: "
    "it reads the packed cache once for each query head; prompts convert the cache to f16"
)
_NEVER_RUN = "the HIP backend was never run on AMD hardware by turbobench's developers"


def unavailable(archs: tuple[str, ...] = ()) -> str | None:
    """Say why this cannot be built here for `archs`, or for the GPUs found if none are named."""
    rocm = _rocm_dir()
    clang = _find_clang()
    if clang is None:
        places = ", ".join(str(place) for place in _clang_dirs())
        return f"no ROCm: its clang++ is neither $HIPCXX nor in {places}, and there is no amdclang++ on PATH"
    version = _rocm_version(rocm)
    if version is not None and version < _ROCM_MINIMUM:
        return f"ROCm {'.'.join(map(str, version))} in {rocm} is too old: llama.cpp needs 6.1"
    if not (archs or gpus()):
        return (
            "neither rocminfo nor rocm_agent_enumerator names an AMD GPU; "
            "to compile for another machine, name its GPU's architecture, as in --arch gfx1100"
        )
    return None


def arch(text: str) -> str:
    """Read an architecture of --arch, such as `gfx1100`; ConfigError for anything else."""
    if not _ARCH.fullmatch(text):
        raise ConfigError(f"--arch {text} is no AMD architecture", "write it as rocminfo does: --arch gfx1100")
    return text


def gpus() -> tuple[Gpu, ...]:
    program = _tool("rocminfo")
    found = parse_rocminfo(_output((program,)), _driver()) if program else ()
    if not found and (program := _tool("rocm_agent_enumerator")):
        found = parse_enumerator(_output((program,)), _driver())
    return visible(found, os.environ.get("HIP_VISIBLE_DEVICES"))


def devices() -> tuple[str, ...]:
    return tuple(found.label for found in gpus())


def peak_memory() -> AbstractContextManager[PeakMemory | None]:
    """Measure nothing: how amd-smi reports memory could not be tried here."""
    return contextlib.nullcontext()


def device_compiler() -> DeviceCompiler | None:
    clang = _find_clang()
    if clang is None:
        return None
    told = _output((str(clang), "--version")).partition("\n")[0].strip()
    return DeviceCompiler(version=told, cmake_flags=(f"-DCMAKE_HIP_COMPILER={clang}",))


def cmake_flags(compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the CPU backend's flags, which is part of every build, and those of HIP for `archs`."""
    return (*cpu.cmake_flags(compiler), "-DGGML_HIP=ON", f"-DGPU_TARGETS={';'.join(archs)}")


def notes(compiler: Compiler) -> tuple[str, ...]:
    return (*cpu.notes(compiler), _FA_NOTE, _NEVER_RUN)


def remedy(crash: proc.Completed, compiler: Compiler) -> str | None:
    return cpu.remedy(crash, compiler)


def parse_rocminfo(stdout: str, driver: str = "") -> tuple[Gpu, ...]:
    """Read the GPU agents of rocminfo; memory is the first global pool, which it gives in KB."""
    found = []
    for agent in re.split(r"^Agent \d+\s*$", stdout, flags=re.MULTILINE)[1:]:
        name = _field(agent, "Name")
        if _field(agent, "Device Type") != "GPU" or not _ARCH.fullmatch(name):
            continue
        pool = re.search(r"Segment:\s+GLOBAL.*\n\s+Size:\s+(\d+)", agent)
        found.append(
            Gpu(
                name=_field(agent, "Marketing Name") or name,
                arch=name,
                memory_mib=int(pool[1]) // 1024 if pool else None,
                driver=driver,
                uuid=_field(agent, "Uuid"),
            )
        )
    return tuple(found)


def parse_enumerator(stdout: str, driver: str = "") -> tuple[Gpu, ...]:
    """Read rocm_agent_enumerator, which prints one architecture a line, gfx000 for the CPU."""
    names = [line.strip() for line in stdout.splitlines()]
    return tuple(
        Gpu(name=f"AMD {name}", arch=name, memory_mib=None, driver=driver, uuid="")
        for name in names
        if _ARCH.fullmatch(name) and name != "gfx000"
    )


def _field(agent: str, name: str) -> str:
    found = re.search(rf"^\s+{name}:[ \t]*(.*?)[ \t]*$", agent, re.MULTILINE)
    return found[1] if found else ""


def _rocm_dir() -> Path:
    return Path(os.environ.get("ROCM_PATH") or _USUAL)


def _clang_dirs() -> tuple[Path, ...]:
    return (_rocm_dir() / "llvm" / "bin", _rocm_dir() / "lib" / "llvm" / "bin")


def _find_clang() -> Path | None:
    candidates = (os.environ.get("HIPCXX") or "", *(str(place / "clang++") for place in _clang_dirs()), "amdclang++")
    return next((Path(found) for name in candidates if name and (found := shutil.which(name))), None)


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=str(_rocm_dir() / "bin"))


@functools.cache
def _output(argv: tuple[str, ...]) -> str:
    return proc.run(proc.Command(argv=argv, timeout_s=30)).stdout


def _rocm_version(rocm: Path) -> Version | None:
    try:
        found = re.match(r"(\d+)\.(\d+)", (rocm / ".info" / "version").read_text())
    except OSError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def _driver() -> str:
    try:
        return _DRIVER.read_text().strip()
    except OSError:
        return ""
