"""What nvidia-smi says: the NVIDIA GPUs of this machine, and how much of their memory a running program takes."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from turbobench import proc
from turbobench.gpu import Gpu, PeakMemory, visible

_TIMEOUT_S = 30.0
_SAMPLE_MS = 100
# The name comes last: it is the one field that could hold a comma.
_QUERY = ("compute_cap", "uuid", "memory.total", "driver_version", "name")
_CAPABILITY = re.compile(r"(\d+)\.(\d)")
_MIB = re.compile(r"(\d+)(?: MiB)?")


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that a CUDA program started here would see; none where nvidia-smi is missing or fails."""
    program = shutil.which("nvidia-smi")
    return visible(_all_gpus(program)[0], os.environ.get("CUDA_VISIBLE_DEVICES")) if program else ()


def no_gpu_reason() -> str:
    """Say why `gpus` found none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "there is no nvidia-smi on PATH, so no NVIDIA driver"
    found, reason = _all_gpus(program)
    if found:
        return f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')} leaves none of {len(found)} GPUs"
    return reason


def parse_gpus(stdout: str) -> tuple[Gpu, ...]:
    """Read `--format=csv,noheader` of the fields in `_QUERY`; a GPU without a compute capability is left out."""
    found = []
    for line in stdout.splitlines():
        fields = [part.strip() for part in line.split(",", len(_QUERY) - 1)]
        if len(fields) != len(_QUERY) or not (capability := _CAPABILITY.fullmatch(fields[0])):
            continue
        memory = _MIB.fullmatch(fields[2])
        found.append(
            Gpu(
                name=fields[4],
                arch=capability[1] + capability[2],
                memory_mib=int(memory[1]) if memory else None,
                driver="" if fields[3].startswith("[") else fields[3],
                uuid=fields[1],
            )
        )
    return tuple(found)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Sample the memory in use on the visible GPUs ten times a second while the body runs.

    What counts is the rise above what was in use before, over the whole GPU: in a container nvidia-smi often cannot
    tell processes apart. It includes the CUDA context, and whatever other programs take meanwhile.
    """
    wanted = {gpu.uuid for gpu in gpus()}
    argv = ("nvidia-smi", "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits")
    first = proc.run(proc.Command(argv=argv, timeout_s=_TIMEOUT_S))
    found = dict(used for line in first.stdout.splitlines() if (used := _used(line)) is not None)
    peak = PeakMemory({uuid: mib for uuid, mib in found.items() if uuid in wanted})

    def sample(line: str) -> None:
        if (used := _used(line)) is not None:
            peak.take(*used)

    with proc.beside(proc.Command(argv=(*argv, "-lms", str(_SAMPLE_MS))), sample):
        yield peak


def _used(line: str) -> tuple[str, float] | None:
    uuid, _, used = (part.strip() for part in line.partition(","))
    return (uuid, float(used)) if used.isdecimal() else None


@functools.cache
def _all_gpus(program: str) -> tuple[tuple[Gpu, ...], str]:
    """Return the GPUs, or none and the reason: what nvidia-smi printed."""
    argv = (program, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader")
    ended = proc.run(proc.Command(argv=argv, timeout_s=_TIMEOUT_S))
    found = parse_gpus(ended.stdout) if ended.ok else ()
    said = ended.tail[0] if ended.tail else ended.ending
    return found, "" if found else f"nvidia-smi names no GPU: {said}"
