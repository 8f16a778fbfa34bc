"""PatchedTree x backend -> Build: configure, compile, smoke-test, and stamp last. Without a stamp there is no build."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from turbobench import backends, console, gpu, host, paths, proc
from turbobench.errors import BuildError, ToolchainError
from turbobench.machine import this_machine
from turbobench.ninja import Compilation, ninja_status
from turbobench.proc import CommandError
from turbobench.stack import PatchedTree
from turbobench.toolchain import Compiler, DeviceCompiler, Tools, find_tools

# What measuring needs; the demo builds no more.
DEFAULT_TARGETS = ("llama-bench", "llama-perplexity", "llama-quantize")
MORE_TARGETS = {
    "server": ("llama-server",),
    "cli": ("llama-cli",),
    "calibrate": ("llama-kv-center",),
    "tests": ("test-backend-ops", "test-quantize-fns"),
}

_STAMP = "turbobench-build.json"
_NEEDED_BYTES = 600 << 20
_BYTES_PER_JOB = 1 << 30  # what the compiler takes for the largest file
_COMMON_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # Nothing is downloaded while building.
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_NUMBER=0",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Programs of one patched tree for one backend, which passed the smoke test on a CPU named `cpu`.

    `untested` says why the smoke test was not run, and is empty if it passed. `archs` are those of the device code;
    `notes` are what a reader of results must know; `built_at` is UTC, ISO 8601.
    """

    id: str
    backend: str
    tree_id: str
    base_commit: str
    bin_dir: Path
    cmake_flags: tuple[str, ...]
    compiler: str
    cpu: str
    notes: tuple[str, ...]
    built_at: str
    archs: tuple[str, ...] = ()
    untested: str = ""

    def program(self, name: str) -> Path:
        """Return the path of a program, such as "llama-bench"; BuildError if it was not built."""
        path = _program(self.bin_dir, name)
        if not path.is_file():
            group = next((group for group, targets in MORE_TARGETS.items() if name in targets), None)
            raise BuildError(
                f"build {self.id} has no {name}",
                "run 'turbobench build" + (f" --with {group}'" if group else "' again"),
            )
        return path


def build(
    tree: PatchedTree,
    backend: str,
    *,
    smoke: Callable[[Path], None],
    jobs: int | None = None,
    targets: tuple[str, ...] = DEFAULT_TARGETS,
    archs: tuple[str, ...] = (),
) -> Build:
    """Return the build of `tree` for `backend`, made now unless it is there with all of `targets`.

    Device code is compiled for `archs`, or for the GPUs found here if none are named. `smoke` gets the folder of the
    programs and raises if they do not work; where no GPU is, a build for one is stamped as untested. ToolchainError if
    this machine cannot build, BuildError with the first errors and the log's path if it failed. What is compiled stays,
    for the next run to go on.
    """
    module = backends.get(backend)
    if (found := find_build(tree, backend, archs)) and _is_complete(found, targets):
        return found
    if reason := module.unavailable(archs):
        raise ToolchainError(f"backend {backend} cannot be built here: {reason}", "see 'turbobench doctor'")
    folder = _build_dir(tree, backend)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if (found := find_build(tree, backend, archs)) and _is_complete(found, targets):
            return found  # made by another process meanwhile
        paths.require_free(folder, _NEEDED_BYTES, f"the {backend} build")
        work = _Work(
            folder=folder,
            tools=find_tools(tree.path, cmake=module.CMAKE_MINIMUM),
            device_compiler=module.device_compiler(),
            jobs=jobs,
            targets=targets,
            archs=archs or gpu.archs(module.gpus()),
        )
        (folder / _STAMP).unlink(missing_ok=True)
        flags = _until_it_runs(tree, backend, smoke, work)
        return _stamp(tree, backend, flags, work)


def find_build(tree: PatchedTree, backend: str, archs: tuple[str, ...] = ()) -> Build | None:
    """Return the stamped build of exactly this tree on this machine's CPU, or None.

    It must hold device code for all of `archs`, or for all GPUs found here if none are named.
    """
    folder = _build_dir(tree, backend)
    try:
        fields = json.loads((folder / _STAMP).read_text())
        stamped = Build(
            **{
                **fields,
                "bin_dir": folder / "bin",
                "cmake_flags": tuple(fields["cmake_flags"]),
                "notes": tuple(fields["notes"]),
                "archs": tuple(fields.get("archs", ())),  # a stamp of a CPU build may be older than they are
            }
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Native code of another machine, out of a shared cache, may not run here.
    if stamped.tree_id != tree.tree_id or stamped.cpu != this_machine().cpu:
        return None
    wanted = archs or gpu.archs(backends.get(backend).gpus())
    return stamped if set(wanted) <= set(stamped.archs) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    folder: Path
    tools: Tools
    device_compiler: DeviceCompiler | None
    jobs: int | None
    targets: tuple[str, ...]
    archs: tuple[str, ...]


def _until_it_runs(tree: PatchedTree, backend: str, smoke: Callable[[Path], None], work: _Work) -> tuple[str, ...]:
    """Compile and smoke-test; after a crash that the backend has a remedy for, once more. Returns the flags."""
    module = backends.get(backend)
    while True:
        flags = (
            *_COMMON_FLAGS,
            f"-DLLAMA_BUILD_COMMIT={tree.base_commit[:9]}",
            *module.cmake_flags(work.tools.compiler, work.archs),
        )
        for note in module.notes(work.tools.compiler):
            console.step(note)
        _compile(tree, backend, flags, work)
        if _untested(backend):
            return flags
        console.step("smoke test: decoding with every cache type")
        try:
            smoke(work.folder / "bin")
        except CommandError as crash:
            remedy = module.remedy(crash.completed, work.tools.compiler)
            if remedy is None:
                raise BuildError(
                    f"the {backend} build compiles, but does not work: {crash.what}", crash.hint
                ) from crash
            console.warn(remedy)
        else:
            return flags


def _compile(tree: PatchedTree, backend: str, flags: tuple[str, ...], work: _Work) -> None:
    log = paths.cache_dir() / "logs" / f"build-{backend}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    compiler, tools = work.tools.compiler, work.tools
    generator = (
        "-G",
        "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={tools.ninja}",
        f"-DGGML_CCACHE={'ON' if tools.ccache else 'OFF'}",
    )
    compilers = (
        f"-DCMAKE_C_COMPILER={compiler.cc}",
        f"-DCMAKE_CXX_COMPILER={compiler.cxx}",
        *(work.device_compiler.cmake_flags if work.device_compiler else ()),
    )
    # A flag that an earlier configuration had and this one has not must not linger in CMake's cache.
    lingering = ("-U", "CMAKE_PROJECT_ggml_INCLUDE")
    argv: list[str | Path] = [
        tools.cmake,
        "-S",
        tree.path,
        "-B",
        work.folder,
        *generator,
        *compilers,
        *lingering,
        *flags,
    ]
    console.step(f"configuring the {backend} build, log: {log}")
    watch = Compilation()
    ended = proc.run(proc.Command(argv=argv, log=log), on_line=watch.take)
    if not ended.ok:
        raise watch.failure(f"configuring the {backend} build", ended)
    jobs = work.jobs or _default_jobs()
    devices = f" for {', '.join(work.archs)}" if work.archs else ""
    console.step(f"compiling {', '.join(work.targets)}{devices} with {jobs} jobs")
    env = {**ninja_status(), **_ccache_env(tree, compiler)}
    with watch.shown(f"building for {backend}"):
        argv = [tools.ninja, "-C", work.folder, "-j", str(jobs), *work.targets]
        ended = proc.run(proc.Command(argv=argv, log=log, env=env), on_line=watch.take)
    if not ended.ok:
        raise watch.failure(f"compiling the {backend} build", ended)


def _untested(backend: str) -> str:
    """Return why the smoke test cannot be run here, or nothing."""
    module = backends.get(backend)
    if module.N_GPU_LAYERS is None or module.gpus():
        return ""
    return f"no {backend} device on the machine that compiled it: it was never run"


def _stamp(tree: PatchedTree, backend: str, flags: tuple[str, ...], work: _Work) -> Build:
    folder, compiler = _build_dir(tree, backend), work.tools.compiler
    compilers = (compiler.version, *([work.device_compiler.version] if work.device_compiler else []))
    # Where this package is installed is no part of a build's identity.
    named = tuple(flag.replace(str(Path(backends.__file__).parent) + os.sep, "") for flag in flags)
    parts = "\0".join((tree.tree_id, backend, *named, *compilers))
    made = Build(
        id=hashlib.sha256(parts.encode()).hexdigest()[:12],
        backend=backend,
        tree_id=tree.tree_id,
        base_commit=tree.base_commit,
        bin_dir=folder / "bin",
        cmake_flags=named,
        compiler="; ".join(compilers),
        cpu=this_machine().cpu,
        notes=backends.get(backend).notes(compiler),
        built_at=datetime.now(UTC).isoformat(timespec="seconds"),
        archs=work.archs,
        untested=_untested(backend),
    )
    with paths.atomic_path(folder / _STAMP) as temporary:
        temporary.write_text(json.dumps({**asdict(made), "bin_dir": "bin"}, indent=1))
    return made


def _build_dir(tree: PatchedTree, backend: str) -> Path:
    """Inside the tree: so relative paths, and with them ccache's hits, are the same wherever the tree is."""
    return tree.path / f"build-{backend}"


def _is_complete(found: Build, targets: tuple[str, ...]) -> bool:
    """Return whether nothing of it is left to be compiled, or to be tested now that it can be."""
    compiled = all(_program(found.bin_dir, name).is_file() for name in targets)
    return compiled and not (found.untested and not _untested(found.backend))


def _program(bin_dir: Path, name: str) -> Path:
    return bin_dir / (f"{name}.exe" if os.name == "nt" else name)


def _default_jobs() -> int:
    memory = host.available_memory_bytes()
    by_memory = this_machine().cores if memory is None else memory // _BYTES_PER_JOB
    return max(1, min(this_machine().cores, by_memory))


def _ccache_env(tree: PatchedTree, compiler: Compiler) -> dict[str, str]:
    """Let builds in different folders share objects, and those for different CPUs not: -march=native hides which."""
    kind = hashlib.sha256(" ".join((compiler.version, *sorted(host.cpu_flags()))).encode()).hexdigest()[:16]
    wanted = {"CCACHE_BASEDIR": str(tree.path), "CCACHE_NAMESPACE": kind}
    return {name: value for name, value in wanted.items() if name not in os.environ}
