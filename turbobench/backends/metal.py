"""The Metal backend for Apple GPUs. We have never run it: we have no Mac; its kernels are checked by emulation."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import sys
from contextlib import AbstractContextManager

from turbobench import proc
from turbobench.backends import cpu
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory
from turbobench.toolchain import Compiler, DeviceCompiler, Version

N_GPU_LAYERS: int | None = 99
CMAKE_MINIMUM: Version = (0,)

_PROFILER = ("system_profiler", "SPDisplaysDataType", "-json")
_KERNELS_NOTE = (
    "Metal has attention kernels for every pair of f16, q8_0, turbo4 and turbo3, and for K and V of one type of "
    "llama.cpp; operations on other pairs go to the CPU, and are reported as such"
)
_NEVER_RUN = (
    "the Metal backend was never run on Apple hardware by turbobench's developers: its kernels ran in emulation"
)


def unavailable(archs: tuple[str, ...] = ()) -> str | None:
    """Say that it needs macOS; Apple's command line tools, which any build needs, have its headers."""
    return None if sys.platform == "darwin" else f"Metal is part of macOS, and this is {platform.system()}"


def arch(text: str) -> str:
    """Refuse every --arch with a ConfigError: macOS compiles the kernels for its GPU when they are first used."""
    raise ConfigError(f"--arch {text} is not for the metal backend, whose kernels macOS compiles", "leave --arch away")


def gpus() -> tuple[Gpu, ...]:
    return parse_profiler(_profile()) if sys.platform == "darwin" else ()


def devices() -> tuple[str, ...]:
    return tuple(f"{found.label}, {found.driver}" for found in gpus())


def peak_memory() -> AbstractContextManager[PeakMemory | None]:
    """Measure nothing: the GPU shares the machine's memory, and no tool tells its part."""
    return contextlib.nullcontext()


def device_compiler() -> DeviceCompiler | None:
    return None


def cmake_flags(compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the CPU backend's flags, which is part of every build, and Metal's with the kernels inside the library."""
    return (*cpu.common_flags(compiler), "-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON")


def notes(compiler: Compiler) -> tuple[str, ...]:
    return (*cpu.notes(compiler), _KERNELS_NOTE, _NEVER_RUN)


def remedy(crash: proc.Completed, compiler: Compiler) -> str | None:
    return cpu.remedy(crash, compiler)


def parse_profiler(stdout: str) -> tuple[Gpu, ...]:
    """Read the GPUs of system_profiler that know Metal; none from what is not its JSON."""
    try:
        listed = json.loads(stdout)["SPDisplaysDataType"] or []
    except (ValueError, KeyError, TypeError):
        return ()
    release = platform.mac_ver()[0]
    return tuple(
        Gpu(name=_name_of(found), arch="", memory_mib=None, driver=f"macOS {release}".strip(), uuid="")
        for found in listed
        if isinstance(found, dict) and any("mtlgpufamily" in key or "metal" in key for key in found)
    )


def _name_of(found: dict[str, object]) -> str:
    cores = found.get("sppci_cores")
    return str(found.get("sppci_model") or found.get("_name") or "GPU") + (f", {cores} cores" if cores else "")


@functools.cache
def _profile() -> str:
    return proc.run(proc.Command(argv=_PROFILER, timeout_s=60)).stdout
