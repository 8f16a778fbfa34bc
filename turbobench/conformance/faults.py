"""Planted faults: a copy of a build's library with one mistake in it must fail the cases that look at that code.

A mistake is text of a kernel file replaced in a copy of ggml's sources. The objects named are made again by the
build's own commands with the copy in place of the sources, and the library is linked with them, into a copy too: the
build and its tree are not touched.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from turbobench import console, paths, proc
from turbobench.build import Build
from turbobench.conformance.finding import Finding
from turbobench.conformance.units import run_cases
from turbobench.conformance.verify import FAULT, Verified, read_verified
from turbobench.errors import BuildError, ConfigError
from turbobench.stack import PatchedTree
from turbobench.store import SCHEMA, Record, open_store
from turbobench.toolchain import find_tools

_LIBRARY = re.compile(r"bin/lib(?P<name>[\w-]+)\.(?:so[\d.]*|dylib)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A mistake: in `file` of the tree's `ggml/`, the one match of `pattern` becomes `instead` (as in `re.sub`).

    `rebuilt` are the ends of the names of what is made again for `library`, in order: objects, and before them sources
    that are generated. One of `cases` must fail.
    """

    name: str
    file: str
    pattern: str
    instead: str
    library: str
    rebuilt: tuple[str, ...]
    cases: tuple[str, ...]


def _one_off(type_name: str, library: str, object_name: str, *cases: str, where: str) -> Fault:
    """Make the second entry of the first codebook larger by one 128th of the scale, in one object."""
    return Fault(
        name=f"one entry of {type_name}'s table is off by one, {where}",
        file="src/turbo-tables.h",
        pattern=rf"(kvalues_{type_name}\[8\]\[\d+\]\) = \{{\n\s+\{{ -?\d+, -?\d+)",
        instead=r"\1 + 1",
        library=library,
        rebuilt=(object_name,),
        cases=cases,
    )


def _swapped_in_cuda(library: str) -> Fault:
    return Fault(
        name="SET_ROWS writes turbo4's nibbles swapped",
        file="src/ggml-cuda/turbo-quants-encode.cuh",
        pattern=r"codes \|= (__shfl_xor_sync\(0xffffffff, codes, 32/RUN, TURBO_LANES\)) << 4",
        instead=r"codes = codes << 4 | \1",
        library=library,
        rebuilt=("/attention-rows.cu.o",),
        cases=("SET_ROWS turbo4",),
    )


def _shaders(*names: str) -> tuple[str, ...]:
    """Return what is made of shaders: a source with the code in it, and its object."""
    return tuple(f"/{name}.comp.cpp{end}" for name in names for end in ("", ".o"))


# The device decides which of them it runs.
_ATTENTION_SHADERS = _shaders("flash_attn", "flash_attn_cm1", "flash_attn_cm2")

FAULTS: dict[str, tuple[Fault, ...]] = {
    "cpu": (
        _one_off("turbo3", "ggml-cpu", "/fattn-quant.cpp.o", "FLASH_ATTN_EXT turbo3/q8_0 64", where="in attention"),
        Fault(
            name="one entry of turbo3t's table is off by one, in attention",
            file="src/turbo-trellis-tables.h",
            pattern=r"(kvalues_turbo3t\[64\] = \{ -?\d+, -?\d+)",
            instead=r"\1 + 1",
            library="ggml-cpu",
            rebuilt=("/fattn-quant.cpp.o",),
            cases=("FLASH_ATTN_EXT turbo3t/turbo3t 64",),
        ),
        Fault(
            name="SET_ROWS loses a bit of turbo3t's paths",
            file="src/ggml-cpu/turbo-trellis.c",
            pattern=r"\[i\] & 7\) << 6",
            instead="[i] & 6) << 6",
            library="ggml-cpu",
            rebuilt=("/turbo-trellis.c.o",),
            cases=("SET_ROWS turbo3t",),
        ),
        Fault(
            name="the second half of V is zero where few queries are computed",
            file="src/ggml-cpu/fattn-quant.cpp",
            pattern=r"(?P<call>    write_out\(a, r%a\.n_q, head, seq, sum, s\.acc\);)",
            instead=r"    std::fill(s.acc + a.DV/2, s.acc + a.DV, 0.0f);\n\g<call>",
            library="ggml-cpu",
            rebuilt=("/fattn-quant.cpp.o",),
            cases=("FLASH_ATTN_EXT q8_0/turbo4 64",),
        ),
        Fault(
            name="SET_ROWS writes turbo4's nibbles swapped",
            file="src/ggml-cpu/turbo-quants.c",
            pattern=r"\(code\[i\] \| code\[32 \+ i\] << 4\)",
            instead="(code[32 + i] | code[i] << 4)",
            library="ggml-cpu",
            rebuilt=("/turbo-quants.c.o",),
            cases=("SET_ROWS turbo4",),
        ),
    ),
    "cuda": (
        _one_off(
            "turbo3",
            "ggml-cuda",
            "/fattn-decode-turbo3-turbo3.cu.o",
            "FLASH_ATTN_EXT turbo3/turbo3 128",
            where="in the decode kernel",
        ),
        _one_off("turbo4", "ggml-cuda", "/convert.cu.o", "FLASH_ATTN_EXT turbo4/turbo4 128", where="in prompts"),
        Fault(
            name="the second half of V is zero in the decode kernel",
            file="src/ggml-cuda/fattn-decode-values.cuh",
            pattern=r"(x\[e\] = \(out\.o\[i\*4 \+ e/2\]\[j \+ e%2\*2\] - bias\)\*)LV::UNIT",
            instead=r"\1(128*i < D ? LV::UNIT : 0.0f)",
            library="ggml-cuda",
            rebuilt=("/fattn-decode-turbo4-turbo4.cu.o",),
            cases=("FLASH_ATTN_EXT turbo4/turbo4 128",),
        ),
        _swapped_in_cuda("ggml-cuda"),
    ),
    "hip": (
        _one_off("turbo4", "ggml-hip", "/convert.cu.o", "FLASH_ATTN_EXT turbo4/turbo4 128", where="in prompts"),
        _swapped_in_cuda("ggml-hip"),
    ),
    "vulkan": (
        Fault(
            name="one entry of turbo3's table is off by one, in attention",
            file="src/ggml-vulkan/vulkan-shaders/turbo_tables.glsl",
            pattern=r"(const uint turbo_books\[\d+\] = \{\n\s+0x[0-9a-f]{8}u, 0x[0-9a-f]{8}u)",
            instead=r"\1 + 1u",
            library="ggml-vulkan",
            rebuilt=_ATTENTION_SHADERS,
            cases=("FLASH_ATTN_EXT turbo3/q8_0 64",),
        ),
        Fault(
            name="the second half of V's blocks is zero in attention",
            file="src/ggml-vulkan/vulkan-shaders/flash_attn_dequant.glsl",
            pattern=r"(?=FA_DEQUANT4_TURBO4\(v_packed_turbo4\))",
            instead="if (iqs >= 32) { return FLOAT_TYPEV4(0); } ",
            library="ggml-vulkan",
            rebuilt=_ATTENTION_SHADERS,
            cases=("FLASH_ATTN_EXT q8_0/turbo4 64",),
        ),
        Fault(
            name="SET_ROWS writes turbo4's nibbles swapped",
            file="src/ggml-vulkan/vulkan-shaders/copy_to_turbo.comp",
            pattern=r"codes\[2\*i\] \| codes\[32 \+ 2\*i\] << 4",
            instead="codes[32 + 2*i] | codes[2*i] << 4",
            library="ggml-vulkan",
            rebuilt=_shaders("copy_to_turbo"),
            cases=("SET_ROWS turbo4",),
        ),
    ),
}


def plant_all(build: Build, tree: PatchedTree, folder: Path) -> Verified:
    """Plant each fault of the build's backend that is not yet known to be seen, and record what saw it."""
    faults = FAULTS.get(build.backend, ())
    if not faults:
        raise ConfigError(
            f"no faults are known for {build.backend}", f"--plant-faults is there for {', '.join(FAULTS)}"
        )
    with open_store(folder, f"{build.backend}.jsonl") as store:
        seen = {record["fault"] for record in store.records if record["kind"] == FAULT and record["caught"]}
        for fault in faults:
            if fault.name not in seen:
                console.step(f"planting: {fault.name}")
                store.append(_record(fault, try_fault(build, tree, fault)))
        return read_verified(store.records)


def try_fault(build: Build, tree: PatchedTree, fault: Fault) -> list[Finding]:
    """Return what the fault's cases say of the copy with the fault in it; BuildError if it cannot be made."""
    found: list[Finding] = []
    with paths.scratch_dir(paths.cache_dir() / "faults") as scratch:
        run_cases(replace(build, bin_dir=plant(build, tree, fault, scratch)), fault.cases, found.append)
    return found


def plant(build: Build, tree: PatchedTree, fault: Fault, scratch: Path) -> Path:
    """Make the libraries of the build with the fault in them, in `scratch`; returns their folder."""
    if sys.platform == "win32":
        raise ConfigError("faults cannot be planted on Windows", "the build's commands are those of a shell")
    commands = _Commands(build, tree, fault.library)
    sources, bin_dir = scratch / "ggml", scratch / "bin"
    shutil.copytree(tree.path / "ggml", sources)
    _edit(sources / fault.file, fault)
    bin_dir.mkdir()
    for library in build.bin_dir.glob("lib*"):
        shutil.copy2(library, bin_dir, follow_symlinks=False)
    moved: dict[str, Path] = {}
    for number, suffix in enumerate(fault.rebuilt):
        entry = commands.of(suffix)
        moved[entry["output"]] = scratch / str(number) / Path(entry["output"]).name
        moved[entry["output"]].parent.mkdir()
        commands.run(entry, sources, moved)
    link = commands.of_library()
    moved[link["output"]] = bin_dir / Path(link["output"]).name
    commands.run(link, sources, moved)
    return bin_dir


class _Commands:
    """The commands by which ninja makes one library of a build."""

    def __init__(self, build: Build, tree: PatchedTree, library: str) -> None:
        self._folder, self._tree, self._library = build.bin_dir.parent, tree, library
        ninja = find_tools(tree.path).ninja
        listed = proc.check(proc.Command(argv=[ninja, "-C", self._folder, "-t", "compdb", "-x"])).stdout
        # ninja says first which folder it enters
        self._entries: list[dict[str, Any]] = json.loads(listed[listed.index("[\n") :])

    def of(self, suffix: str) -> dict[str, Any]:
        of_library = f"/{self._library}"  # its folder of objects, or of generated sources
        found = [
            e for e in self._entries if of_library in e["output"] and e["output"].endswith(suffix) and e["command"]
        ]
        return self._one(found, f"makes *{suffix}")

    def of_library(self) -> dict[str, Any]:
        def is_it(output: str) -> bool:
            found = _LIBRARY.fullmatch(output)
            return found is not None and found["name"] == self._library

        found = [entry for entry in self._entries if is_it(entry["output"]) and " -o " in entry["command"]]
        return self._one(found, "links it")

    def _one(self, found: list[dict[str, Any]], what: str) -> dict[str, Any]:
        if len(found) != 1:
            raise BuildError(
                f"of the commands that build {self._library}, one should be what {what}; there are {len(found)}",
                "run 'turbobench build' again, or mend conformance/faults.py",
            )
        return found[0]

    def run(self, entry: dict[str, Any], sources: Path, moved: dict[str, Path]) -> None:
        """Run a command with the copied sources in place of the tree's, and each of `moved` in its new place."""
        command = str(entry["command"]).replace(f"{self._tree.path}/ggml/", f"{sources}/")
        for output, place in moved.items():
            command = command.replace(f"{self._folder}/{output}", str(place)).replace(output, str(place))
        # where Vulkan's generator leaves what it made on the way
        command = re.sub(r"(--output-dir )\S+", rf"\1{sources.parent}/spv", command)
        log = paths.cache_dir() / "logs" / "faults.log"
        proc.check(proc.Command(argv=["sh", "-c", command], cwd=self._folder, log=log))


def _edit(path: Path, fault: Fault) -> None:
    text = path.read_text(encoding="utf-8")
    changed, count = re.subn(fault.pattern, fault.instead, text)
    if count != 1:
        raise BuildError(
            f"{fault.file} has {count} places for the fault {fault.name!r}", "mend its pattern in conformance/faults.py"
        )
    path.write_text(changed, encoding="utf-8")


def _record(fault: Fault, found: list[Finding]) -> Record:
    seen = [case for case in found if case.outcome == "failed"]
    by = f"{seen[0].case}: {seen[0].reason}" if seen else ""
    return {"schema": SCHEMA, "kind": FAULT, "fault": fault.name, "caught": bool(seen), "by": by}
