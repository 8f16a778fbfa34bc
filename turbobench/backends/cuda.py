"""The CUDA backend: for the GPUs found here, or for named architectures on a machine that only compiles."""

from __future__ import annotations

import functools
import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from turbobench import gpu, nvidia, proc
from turbobench.backends import cpu
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory
from turbobench.toolchain import Compiler, DeviceCompiler, Version

N_GPU_LAYERS: int | None = 99
CMAKE_MINIMUM: Version = (3, 18)  # of ggml/src/ggml-cuda/CMakeLists.txt, for CMAKE_CUDA_ARCHITECTURES

# Each pair of upstream's vector attention kernel is a file that takes nvcc minutes, and the pairs of quantized types
# would never be run: turbobench's own decode kernel serves them all.
_FA_PAIRS = ("f16-f16", "bf16-bf16")
_FA_FLAG = f"-DGGML_CUDA_FA_QUANTS={';'.join(_FA_PAIRS)}"
_FA_NOTE = (
    f"of llama.cpp's vector attention kernels only {' and '.join(_FA_PAIRS)} are compiled, to save build time: "
    "quantized pairs have turbobench's own decode kernel"
)

_USUAL = Path("/usr/local/cuda/bin")
_ARCH = re.compile(r"(?:sm_)?(\d{2,3})([af]?)")
_RELEASE = re.compile(r"release (\d+\.\d+), V(\S+)")


def unavailable(archs: tuple[str, ...] = ()) -> str | None:
    """Say why this cannot be built here for `archs`, or for the GPUs found if none are named."""
    nvcc = _find_nvcc()
    if nvcc is None:
        return f"no CUDA toolkit: nvcc is not on PATH, and not in {', '.join(map(str, _places()))}"
    release, known = _about(nvcc)
    if not known:
        return (
            f"{nvcc} cannot say what it compiles for (--list-gpu-arch): it is no nvcc that runs, or one before CUDA 11"
        )
    wanted = archs or gpu.archs(gpus())
    if not wanted:
        return f"{nvidia.no_gpu_reason()}; to compile for another machine, name its GPU's architecture, as in --arch 90"
    unknown = [name for name in wanted if name.rstrip("af") not in known]
    if unknown:
        return (
            f"{nvcc} of CUDA {release} cannot compile for {', '.join(unknown)} (it knows {', '.join(known)}): "
            f"install a {'newer' if int(unknown[0].rstrip('af')) > int(known[-1]) else 'suitable'} CUDA toolkit"
        )
    return None


def arch(text: str) -> str:
    """Read an architecture of --arch: `90`, `90a` or `sm_90`; ConfigError for anything else."""
    found = _ARCH.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--arch {text} is no CUDA architecture", "write the compute capability without its dot: --arch 90"
        )
    return found[1] + found[2]


def gpus() -> tuple[Gpu, ...]:
    return nvidia.gpus()


def devices() -> tuple[str, ...]:
    return tuple(f"{found.label}, driver {found.driver}" if found.driver else found.label for found in gpus())


def peak_memory() -> AbstractContextManager[PeakMemory | None]:
    return nvidia.peak_memory()


def device_compiler() -> DeviceCompiler | None:
    nvcc = _find_nvcc()
    if nvcc is None:
        return None
    return DeviceCompiler(version=f"nvcc {_about(nvcc)[0]}", cmake_flags=(f"-DCMAKE_CUDA_COMPILER={nvcc}",))


def cmake_flags(compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the CPU backend's flags, which is part of every build, and those of CUDA for `archs`."""
    return (
        *cpu.cmake_flags(compiler),
        "-DGGML_CUDA=ON",
        f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(archs)}",
        _FA_FLAG,
        "-DGGML_CUDA_NCCL=OFF",  # found or not found, it would make two builds of one name
    )


def notes(compiler: Compiler) -> tuple[str, ...]:
    return (*cpu.notes(compiler), _FA_NOTE)


def remedy(crash: proc.Completed, compiler: Compiler) -> str | None:
    return cpu.remedy(crash, compiler)


def _places() -> tuple[Path, ...]:
    named = [Path(value) / "bin" for name in ("CUDA_HOME", "CUDA_PATH") if (value := os.environ.get(name))]
    return tuple(dict.fromkeys((*named, _USUAL)))


def _find_nvcc() -> Path | None:
    for place in (None, *map(str, _places())):
        if found := shutil.which("nvcc", path=place):
            return Path(found)
    return None


@functools.cache
def _about(nvcc: Path) -> tuple[str, tuple[str, ...]]:
    """Return nvcc's release, and the architectures that it compiles for in rising order (none before CUDA 11)."""
    version = proc.run(proc.Command(argv=(nvcc, "--version"), timeout_s=30))
    release = _RELEASE.search(version.stdout)
    listed = proc.run(proc.Command(argv=(nvcc, "--list-gpu-arch"), timeout_s=30))
    known = {int(name) for name in re.findall(r"^compute_(\d+)$", listed.stdout, re.MULTILINE)}
    return release[2] if release else "unknown", tuple(map(str, sorted(known)))
