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
)


def msl_to_cpp(source: str) -> str:
    for pattern, replacement in _RULES:
        source = pattern.sub(replacement, source)
    return source


def convert_folder(folder: Path, out: Path) -> None:
    """Write every kernel file of `folder` to `out` as C++, under its own name."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".metal", ".h"):
            (out / path.name).write_text(msl_to_cpp(path.read_text("utf-8")), "utf-8")
