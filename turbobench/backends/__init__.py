"""The backends: modules behind one Protocol, and the dict that names them."""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager
from typing import Protocol, cast

from turbobench.backends import cpu, cuda, hip, metal, vulkan
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory
from turbobench.proc import Completed
from turbobench.toolchain import Compiler, DeviceCompiler, Version


class Backend(Protocol):
    """What a backend's module has. `archs` are architectures to compile device code for; the CPU has none.

    `N_GPU_LAYERS` is how many layers llama.cpp is asked to put on the device, None where that is the CPU itself;
    `CMAKE_MINIMUM` the CMake version that it asks for beyond the tree's.
    """

    N_GPU_LAYERS: int | None
    CMAKE_MINIMUM: Version

    def unavailable(self, archs: tuple[str, ...] = ()) -> str | None:
        """Say why this machine cannot build it, for `archs` or for the GPUs found if none are named; None if it can."""

    def arch(self, text: str) -> str:
        """Return an architecture named by the user in the form that the build takes; ConfigError if it is none."""

    def gpus(self) -> tuple[Gpu, ...]:
        """Return the GPUs that a program started here would compute on."""

    def device_compiler(self) -> DeviceCompiler | None:
        """Return the compiler of device code, None if there is none or none is needed."""

    def cmake_flags(self, compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the flags that select it and suit this machine; may compile and run a small probe, once."""

    def notes(self, compiler: Compiler) -> tuple[str, ...]:
        """Return what a reader of results must know about how it is built here."""

    def devices(self) -> tuple[str, ...]:
        """Name the devices that it would compute on."""

    def peak_memory(self) -> AbstractContextManager[PeakMemory | None]:
        """Watch the memory of the devices while the body runs; None where that cannot be seen."""

    def remedy(self, crash: Completed, compiler: Compiler) -> str | None:
        """After a crash of the smoke test, change what `cmake_flags` says and tell how; None if nothing can be done."""


BACKENDS: dict[str, Backend] = {
    name: cast("Backend", module)
    for name, module in (("cpu", cpu), ("cuda", cuda), ("hip", hip), ("metal", metal), ("vulkan", vulkan))
}


def get(name: str) -> Backend:
    """Return a backend; ConfigError with a suggestion for an unknown one."""
    if name in BACKENDS:
        return BACKENDS[name]
    near = difflib.get_close_matches(name, BACKENDS, n=1)
    raise ConfigError(
        f"unknown backend {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"known backends: {', '.join(BACKENDS)}",
    )
