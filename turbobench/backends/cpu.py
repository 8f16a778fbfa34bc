"""The CPU backend: native instructions, apart from AMX where it is advertised but does not run when compiled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from turbobench import host, paths, proc
from turbobench.errors import ConfigError
from turbobench.gpu import Gpu, PeakMemory
from turbobench.machine import this_machine
from turbobench.toolchain import Compiler, DeviceCompiler, Version

N_GPU_LAYERS: int | None = None
CMAKE_MINIMUM: Version = (0,)  # what the tree asks for is enough

NO_AMX_FILE = Path(__file__).with_name("no_amx.cmake")
_AMX_FLAGS = ("-std=c++17", "-O3", "-march=native")
_CRASHES = ("SIGILL", "SIGSEGV")

# The first thing that ggml's AMX kernels do, in the same form and with the same optimization: GCC 12 drops the stores
# to a tile configuration (their _tile_loadconfig reads 8 of its 64 bytes), so that what is loaded is garbage and
# the first tile instruction dies by SIGILL or SIGSEGV. A CPU or hypervisor that only advertises AMX dies here, too.
_AMX_PROBE = """
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
struct tile_config {
    uint8_t palette_id = 0, start_row = 0, reserved[14] = {0};
    uint16_t colsb[16] = {0};
    uint8_t rows[16] = {0};
};
static void __attribute__((noinline)) dirty_stack() {
    volatile uint8_t garbage[4096];
    for (int i = 0; i < 4096; ++i) { garbage[i] = 0xa5; }
}
static void __attribute__((noinline)) configure() {
    alignas(64) tile_config tc = {};
    tc.palette_id = 1;
    tc.rows[0] = 16; tc.colsb[0] = 64;
    tc.rows[1] = 16; tc.colsb[1] = 64;
    tc.rows[2] = 16; tc.colsb[2] = 64;
    _tile_loadconfig(&tc);
}
int main() {
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */)) { return 3; }
    static int8_t ones[1024];
    static int32_t sums[256];
    memset(ones, 1, sizeof(ones));
    dirty_stack();
    configure();
    _tile_zero(0);
    _tile_loadd(1, ones, 64);
    _tile_loadd(2, ones, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, sums, 64);
    return sums[255] == 64 ? 0 : 4;
}
"""


def unavailable(archs: tuple[str, ...] = ()) -> str | None:
    return None


def arch(text: str) -> str:
    """Refuse every --arch with a ConfigError: the code is native."""
    raise ConfigError(
        f"--arch {text} is not for the cpu backend, which compiles for the CPU of this machine", "leave --arch away"
    )


def gpus() -> tuple[Gpu, ...]:
    return ()


def devices() -> tuple[str, ...]:
    return (f"{this_machine().cpu}, {this_machine().cores} threads",)


def peak_memory() -> AbstractContextManager[PeakMemory | None]:
    return contextlib.nullcontext()


def device_compiler() -> DeviceCompiler | None:
    return None


def cmake_flags(compiler: Compiler, archs: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return what selects the CPU alone: on a Mac, llama.cpp takes Metal unless it is told not to."""
    return (*common_flags(compiler), *(("-DGGML_METAL=OFF",) if sys.platform == "darwin" else ()))


def common_flags(compiler: Compiler) -> tuple[str, ...]:
    """Return native flags; the first call on a CPU that advertises AMX tries it, and the cache remembers the result.

    On a Mac llama.cpp would take Apple's BLAS for the products of prompts, as a device of its own.
    """
    flags = ("-DGGML_NATIVE=ON", *(("-DGGML_BLAS=OFF",) if sys.platform == "darwin" else ()))
    if "amx_tile" in host.cpu_flags() and _amx_verdict(compiler) is None:
        _remember_amx(compiler, _probe_amx(compiler))
    return flags if _amx_verdict(compiler) in (None, "") else (*flags, f"-DCMAKE_PROJECT_ggml_INCLUDE={NO_AMX_FILE}")


def notes(compiler: Compiler) -> tuple[str, ...]:
    verdict = _amx_verdict(compiler)
    return (f"built without AMX: {verdict}",) if verdict else ()


def remedy(crash: proc.Completed, compiler: Compiler) -> str | None:
    """Leave AMX out from now on, if it was in and the crash is of the kind that it causes."""
    if crash.signal_name not in _CRASHES or "amx_tile" not in host.cpu_flags() or _amx_verdict(compiler):
        return None
    _remember_amx(compiler, f"a program built with it died by {crash.signal_name} on this machine")
    return f"a program built with AMX died by {crash.signal_name}: building the CPU backend again without AMX"


def _probe_amx(compiler: Compiler) -> str:
    """Compile and run a few AMX instructions; returns why AMX is to be left out, or "" if they ran."""
    with paths.scratch_dir(paths.cache_dir()) as scratch:
        source, program = scratch / "amx.cpp", scratch / "amx"
        source.write_text(_AMX_PROBE)
        built = proc.run(proc.Command(argv=(compiler.cxx, *_AMX_FLAGS, source, "-o", program), timeout_s=60))
        if not built.ok:
            return ""  # a compiler that does not know AMX does not emit it
        ended = proc.run(proc.Command(argv=(program,), timeout_s=60))
    return (
        ""
        if ended.ok
        else f"its first instructions, as {compiler.version} compiles them, ended here with: {ended.ending}"
    )


def _amx_verdict(compiler: Compiler) -> str | None:
    """Return why AMX is left out on this CPU with this compiler, "" if it runs, None if that is not known yet."""
    try:
        return str(json.loads(_memory_file(compiler).read_text())["without_amx"])
    except (OSError, ValueError, KeyError):
        return None


def _remember_amx(compiler: Compiler, reason: str) -> None:
    facts = {"cpu": this_machine().cpu, "compiler": compiler.version, "without_amx": reason}
    with paths.atomic_path(_memory_file(compiler)) as temporary:
        temporary.write_text(json.dumps(facts, indent=1))


def _memory_file(compiler: Compiler) -> Path:
    key = hashlib.sha256(f"{this_machine().cpu}\0{compiler.version}".encode()).hexdigest()[:12]
    return paths.cache_dir() / "hosts" / f"{key}.json"
