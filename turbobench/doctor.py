"""What this machine can build and run, found out without the network: a list of findings, each with what mends it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from turbobench import backends, build, host, paths, proc, source, stack, toolchain
from turbobench.errors import StackError, ToolchainError, TurbobenchError
from turbobench.machine import this_machine
from turbobench.models import ModelList
from turbobench.strict_yaml import load_yaml

# Source, patched tree, build, model with its f16 weights, text and base logits of the demo.
DEMO_BYTES = 4 << 30
_ISA = (
    "avx2",
    "f16c",
    "fma",
    "avx512f",
    "avx512_vbmi",
    "avx512vbmi",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "asimd",
    "asimddp",
)


class Status(StrEnum):
    """GOOD; ABSENT is made or fetched when needed, or not needed; MISSING keeps the demo from running."""

    GOOD = "ok"
    ABSENT = "-"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's table; `mend` is the command that changes it."""

    name: str
    value: str
    status: Status = Status.GOOD
    mend: str = ""


def examine() -> list[Finding]:
    """Return the findings in the order of the pipeline."""
    return [*_machine(), *_tools(), *_cache(), *_backends()]


def _machine() -> Iterator[Finding]:
    machine = this_machine()
    yield Finding(name="system", value=host.os_name())
    isa = " ".join(flag for flag in _ISA if flag in host.cpu_flags())
    yield Finding(name="CPU", value=f"{machine.cpu}, {machine.cores} threads" + (f", {isa}" if isa else ""))
    yield Finding(name="memory", value="unknown" if machine.ram_gib is None else f"{machine.ram_gib:.1f} GiB")
    yield Finding(name="Python", value=f"{sys.version.split()[0]} ({sys.executable})")
    yield _pip()


def _pip() -> Finding:
    ended = proc.run(proc.Command(argv=(sys.executable, "-m", "pip", "--version"), timeout_s=30))
    if ended.ok:
        return Finding(name="pip", value=ended.stdout.split(" from ")[0].removeprefix("pip ").strip())
    mend = f"run: {sys.executable} -m ensurepip"
    return Finding(name="pip", value="cannot be run", status=Status.MISSING, mend=mend)


def _tools() -> Iterator[Finding]:
    yield _required("git", toolchain.install_hint("git"))
    try:
        yield Finding(name="compiler", value=toolchain.find_compiler().version)
    except ToolchainError as failure:
        yield Finding(name="compiler", value=failure.what, status=Status.MISSING, mend=failure.hint)
    yield _from_index("cmake", toolchain.system_cmake(_cmake_minimum()))
    yield _from_index("ninja", toolchain.system_ninja())
    if ccache := toolchain.system_ccache():
        yield Finding(name="ccache", value=_described(ccache))
    else:
        mend = f"optional, for quicker builds; {toolchain.install_hint('ccache')}"
        yield Finding(name="ccache", value="none", status=Status.ABSENT, mend=mend)


def _required(program: str, mend: str) -> Finding:
    found = shutil.which(program)
    version = toolchain.version_of(Path(found)) if found else None
    if found is None or version is None:
        return Finding(name=program, value="none that runs", status=Status.MISSING, mend=mend)
    return Finding(name=program, value=_described(Path(found)))


def _from_index(name: str, system: Path | None) -> Finding:
    if found := system or toolchain.installed_tool(name):
        return Finding(name=name, value=_described(found))
    mend = "'turbobench build' installs it into the cache"
    return Finding(name=name, value="none that is new enough", status=Status.ABSENT, mend=mend)


def _described(program: Path) -> str:
    version = toolchain.version_of(program) or ()
    return f"{'.'.join(str(part) for part in version)} ({program})"


def _cmake_minimum() -> toolchain.Version:
    tree = source.cached(source.load_pin())
    return toolchain.cmake_minimum(tree.path) if tree else toolchain.PINNED_CMAKE_MINIMUM


def _cache() -> Iterator[Finding]:
    folder = paths.cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    demo_done = any((folder / "models").glob("*.gguf"))
    enough = free >= DEMO_BYTES or demo_done
    yield Finding(
        name="disk",
        value=f"{free / 1e9:.1f} GB free for the cache, {folder}",
        status=Status.GOOD if enough else Status.MISSING,
        mend="" if enough else f"free {(DEMO_BYTES - free) / 1e9:.1f} GB, or set TURBOBENCH_CACHE to a larger disk",
    )
    pin = source.load_pin()
    tree = source.cached(pin)
    yield _made("source", f"llama.cpp {pin.commit[:7]}", tree is not None, "turbobench fetch")
    models = load_yaml(paths.configs_dir() / "models.yaml", ModelList)
    name = models.models[models.default].file
    there = (folder / "models" / name).is_file()
    yield _made("model", name, there, "'turbobench demo' fetches it")
    yield _patches()


def _made(name: str, value: str, there: bool, mend: str) -> Finding:
    if there:
        return Finding(name=name, value=f"{value}, in the cache")
    return Finding(name=name, value=f"{value}, not in the cache yet", status=Status.ABSENT, mend=mend)


def _patches() -> Finding:
    try:
        loaded = stack.load_stack()
    except TurbobenchError as failure:
        return Finding(name="patches", value=failure.what, status=Status.MISSING, mend=failure.hint)
    return Finding(name="patches", value=f"{len(loaded.patches)} patches, {len(loaded.files)} kernel files")


def _backends() -> Iterator[Finding]:
    for name, module in backends.BACKENDS.items():
        label = f"backend {name}"
        if reason := module.unavailable():
            yield Finding(name=label, value=reason, status=Status.ABSENT)
            continue
        built = _built(name)
        value = "; ".join(module.devices()) or "no device found here, but it can be compiled"
        if built:
            value = "; ".join((value, f"build {built.id} of {built.built_at}", *built.notes))
            yield Finding(name=label, value=value)
        else:
            mend = f"turbobench build --backend {name}"
            yield Finding(name=label, value=f"{value}; not built yet", status=Status.ABSENT, mend=mend)


def _built(backend: str) -> build.Build | None:
    """Return the build of the current stack, without making anything."""
    tree = source.cached(source.load_pin())
    if tree is None:
        return None
    try:
        place = stack.default_place(tree, stack.load_stack())
        return build.find_build(stack.tree_at(place), backend) if place.is_dir() else None
    except StackError:
        return None
