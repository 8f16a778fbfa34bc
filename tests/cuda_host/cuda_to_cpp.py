"""What of CUDA C++ is no C++: launches, shared memory whose size is told at the launch, fences of PTX."""

from __future__ import annotations

import re

_SHARED = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?(\w+)\s+(\w+)\[\];")
_FENCE = re.compile(r'asm volatile\("fence[^;]*;"[^;]*\);')
_LAUNCH = re.compile(r"(\w+<[\w, ]+>)<<<(.*?)>>>\((.*?)\);")
# the launch ahead of a kernel that is started early: what it stores is there when it is waited for
_LATE = re.compile(r"store_late<<<1, 128>>>\(\{ (.*?) \}, \{ (.*?) \}, late_q\);")
_LATE_KERNEL = re.compile(r"static __global__ void store_late.*?\n\}\n", re.DOTALL)
# clang takes this parameter for an expression
_PARAMETER = ("weigh(uint32_t (&p)[value_traits<D, LV>::SCALES][2]", "weigh(uint32_t p[][2]")


def kernels(source: str) -> str:
    """Return a header of device code as C++ for `include/fattn-decode-ptx.cuh` of here."""
    source = _SHARED.sub(r"\1 * \2 = (\1 *) shared_memory;", source)
    return _FENCE.sub("", source).replace(*_PARAMETER)


def harness(source: str) -> str:
    """Return a harness of tests/native/cuda as C++ for `include/cuda_runtime.h` of here."""
    source = _LATE.sub(
        r"const late_bytes late[] = { { \1 }, { \2 }, late_q };"
        r" kernel_ahead = [=] { for (const late_bytes & b : late) { memcpy(b.to, b.from, (size_t) b.n); } };",
        _LATE_KERNEL.sub("", source),
    )
    source = _LAUNCH.sub(r"host_launch([&] { \1(\3); }, \2);", source)
    return '#include "cuda_runtime.h"\n' + source.replace("#define ggml_half uint16_t\n", "")
