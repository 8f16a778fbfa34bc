"""Metal source as C++: attributes go away, function constants become variables, named kernels enter `msl_library.h`."""

from __future__ import annotations

import re
from pathlib import Path

_RULES = (
    # `constant int32_t FC_x [[function_constant(...)]];`: what the host sets when it compiles a pipeline
    (re.compile(r"^constant (\w+) +(FC_\w+) *\[\[function_constant\(.*\)\]\];", re.M), r"static \1 \2;"),
    # a named instance of a template, also within a macro
    (re.compile(r"template \[\[host_name\(([^]]*?) *\)\]\] *kernel \w+ ([^;]*);"), r"MSL_KERNEL(\1, \2)"),
    # an array in threadgroup memory is one for all fibers
    (re.compile(r"^( +)threadgroup (\w+ +\w+ *\[.*\];)", re.M), r"\1static \2"),
    (re.compile(r"\[\[[^]]*\]\]"), ""),
    # unrolled loops multiply the time that compiling takes
    (re.compile(r"""_Pragma\("clang loop unroll\(full\)"\)|^ *#pragma unroll.*$""", re.M), ""),
)


def msl_to_cpp(source: str) -> str:
    for pattern, replacement in _RULES:
        source = pattern.sub(replacement, source)
    return source


def keep_head_sizes(source: str, sizes: tuple[int, ...]) -> str:
    """Leave out the kernels of other head sizes, which a macro has one line each for: they take minutes to compile."""
    line = re.compile(r"^    FA_INSTANCE\(name, K, V, +(\d+)[^\n]*\)( \\)?$", re.M)
    return line.sub(lambda m: m[0] if int(m[1]) in sizes else "    /* not compiled here */" + (m[2] or ""), source)


def convert_folder(folder: Path, out: Path, head_sizes: tuple[int, ...]) -> None:
    """Write every kernel file of `folder` to `out` as C++, under its own name."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".metal", ".h"):
            source = keep_head_sizes(path.read_text("utf-8"), head_sizes)
            (out / path.name).write_text(msl_to_cpp(source), "utf-8")
