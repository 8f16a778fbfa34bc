"""The Vulkan backend: one build for the GPUs of every vendor, whose shaders glslc compiles."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from turbobench import nvidia, proc, vulkan_sdk
from turbobench.backends import cpu
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory
from turbobench.toolchain import Compiler, DeviceCompiler, Version

N_GPU_LAYERS: int | None = 99
CMAKE_MINIMUM: Version = (3, 19)  # of ggml/src/ggml-vulkan/CMakeLists.txt

_PROBE = Path(vulkan_sdk.__file__).with_name("vulkan_probe.py")
_CHOSEN = "GGML_VK_VISIBLE_DEVICES"
_INTEGRATED, _DISCRETE, _CPU = 1, 2, 4  # VkPhysicalDeviceType


def unavailable(archs: tuple[str, ...] = ()) -> str | None:
    """Say what of the SDK is missing or too old here, and what to install; no GPU is needed to compile."""
    return vulkan_sdk.find().lack


def arch(text: str) -> str:
    """Refuse every --arch with a ConfigError: drivers compile the shaders for their GPU."""
    raise ConfigError(
        f"--arch {text} is not for the vulkan backend, whose shaders run on every GPU", "leave --arch away"
    )


def gpus() -> tuple[Gpu, ...]:
    """Return the devices that llama.cpp takes: GPUs, each once, or those of GGML_VK_VISIBLE_DEVICES."""
    return choose(_all_devices(), os.environ.get(_CHOSEN))


def devices() -> tuple[str, ...]:
    return tuple(f"{found.label}, driver {found.driver}" for found in gpus())


def peak_memory() -> AbstractContextManager[PeakMemory | None]:
    """Watch NVIDIA's GPUs with nvidia-smi, if there are no others."""
    found = gpus()
    if found and len(found) == len(nvidia.gpus()) and all("NVIDIA" in gpu.driver for gpu in found):
        return nvidia.peak_memory()
    return contextlib.nullcontext()


def device_compiler() -> DeviceCompiler | None:
    found = vulkan_sdk.find()
    if found.lack or found.glslc is None:
        return None
    return DeviceCompiler(version=found.version, cmake_flags=found.cmake_flags)


def cmake_flags(compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*cpu.cmake_flags(compiler), "-DGGML_VULKAN=ON")


def notes(compiler: Compiler) -> tuple[str, ...]:
    note = vulkan_sdk.find().note
    return (*cpu.notes(compiler), *([note] if note else ()))


def remedy(crash: proc.Completed, compiler: Compiler) -> str | None:
    return cpu.remedy(crash, compiler)


def choose(found: list[dict[str, object]], chosen: str | None) -> tuple[Gpu, ...]:
    """Return those of the probe's devices that llama.cpp would use; `chosen` is GGML_VK_VISIBLE_DEVICES."""
    if chosen is not None:
        indices = [int(part) for part in chosen.replace(",", " ").split() if part.isdecimal()]
        taken = [found[i] for i in indices if i < len(found)]
    else:
        of_gpus = {str(d["uuid"]): d for d in reversed(found) if d["type"] in (_DISCRETE, _INTEGRATED)}
        taken = [d for d in found if d in of_gpus.values()] or [d for d in found if d["type"] != _CPU][:1]
    return tuple(
        Gpu(
            name=str(d["name"]),
            arch="",
            memory_mib=int(str(d["memory_mib"])),
            driver=str(d["driver"]),
            uuid=str(d["uuid"]),
        )
        for d in taken
    )


@functools.cache
def _all_devices() -> list[dict[str, object]]:
    ended = proc.run(proc.Command(argv=(sys.executable, _PROBE), timeout_s=60))
    try:
        return list(json.loads(ended.stdout)) if ended.ok else []
    except ValueError:
        return []
