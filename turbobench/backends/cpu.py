"""The CPU backend: native instructions, apart from AMX where it is advertised but does not run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from turbobench import host, paths, proc
from turbobench.machine import this_machine
from turbobench.toolchain import Compiler

NO_AMX_FILE = Path(__file__).with_name("no_amx.cmake")
_AMX_FLAGS = ("-mamx-tile", "-mamx-int8")

# Configure a tile register and use it: what ggml's AMX kernels do first. Linux wants to be asked for it before.
_AMX_PROBE = """
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    if (syscall(SYS_arch_prctl, 0x1023, 18)) { return 3; }
    unsigned char config[64] __attribute__((aligned(64))), rows[1024];
    memset(config, 0, sizeof(config));
    memset(rows, 1, sizeof(rows));
    config[0] = 1;
    for (int tile = 0; tile < 3; ++tile) { config[16 + 2 * tile] = 64; config[48 + tile] = 16; }
    _tile_loadconfig(config);
    _tile_zero(0);
    _tile_loadd(1, rows, 64);
    _tile_loadd(2, rows, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, rows, 64);
    _tile_release();
    return rows[0] == 64 ? 0 : 4;
}
"""


def unavailable() -> str | None:
    return None


def devices() -> tuple[str, ...]:
    return (f"{this_machine().cpu}, {this_machine().cores} threads",)


def cmake_flags(compiler: Compiler) -> tuple[str, ...]:
    """Return native flags; the first call on a CPU that advertises AMX tries it, and the cache remembers the result."""
    flags = ("-DGGML_NATIVE=ON",)
    if "amx_tile" in host.cpu_flags() and _amx_verdict() is None:
        _remember_amx(_probe_amx(compiler))
    return flags if _amx_verdict() in (None, "") else (*flags, f"-DCMAKE_PROJECT_ggml_INCLUDE={NO_AMX_FILE}")


def notes() -> tuple[str, ...]:
    verdict = _amx_verdict()
    return (f"built without AMX: {verdict}",) if verdict else ()


def remedy(crash: proc.Completed) -> str | None:
    """Leave AMX out from now on, if the crash was an illegal instruction and AMX was in."""
    if crash.signal_name != "SIGILL" or "amx_tile" not in host.cpu_flags() or _amx_verdict():
        return None
    _remember_amx("a program built with it died by SIGILL on this machine")
    return "this CPU advertises AMX and a program died by SIGILL: building the CPU backend again without AMX"


def _probe_amx(compiler: Compiler) -> str:
    """Compile and run a few AMX instructions; returns why AMX is to be left out, or "" if they ran."""
    with paths.scratch_dir(paths.cache_dir()) as scratch:
        source, program = scratch / "amx.c", scratch / "amx"
        source.write_text(_AMX_PROBE)
        built = proc.run(proc.Command(argv=(compiler.cc, *_AMX_FLAGS, source, "-o", program), timeout_s=60))
        if not built.ok:
            return ""  # a compiler that does not know AMX does not emit it
        ended = proc.run(proc.Command(argv=(program,), timeout_s=60))
    return "" if ended.ok else f"this CPU advertises it, and its first instructions ended by {ended.ending}"


def _amx_verdict() -> str | None:
    """Return why AMX is left out on this CPU, "" if it runs, None if that is not known yet."""
    try:
        return str(json.loads(_memory_file().read_text())["without_amx"])
    except (OSError, ValueError, KeyError):
        return None


def _remember_amx(reason: str) -> None:
    with paths.atomic_path(_memory_file()) as temporary:
        temporary.write_text(json.dumps({"cpu": this_machine().cpu, "without_amx": reason}))


def _memory_file() -> Path:
    key = hashlib.sha256(this_machine().cpu.encode()).hexdigest()[:12]
    return paths.cache_dir() / "hosts" / f"{key}.json"
