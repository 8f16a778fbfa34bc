"""ggml's Vulkan backend on lavapipe, which is Mesa's Vulkan on the CPU: the tools, a build of what is tested, a runner.

The tools come from Debian 13 whatever the system has, by an apt configuration of their own and into a folder of their
own, and programs run with the C library that comes with them. The build has every shader that holds code of ours or
that a test runs; all others are stand-ins that do nothing, so whatever would use one gives wrong numbers and fails. The
module is loaded into the programs of the CPU build, which has ggml's own tests.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from turbobench import paths, proc
from turbobench.build import Build
from turbobench.stack import PatchedTree
from turbobench.toolchain import find_compiler, find_tools

_SUITE = "trixie"
_PACKAGES = ("glslc", "libvulkan1", "libvulkan-dev", "spirv-headers", "mesa-vulkan-drivers", "vulkan-validationlayers")
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Shaders that are compiled, as patterns of sh: those with code of ours, and what runs beside them in the tests.
_SOURCES = (
    "*turbo*.comp|flash_attn*.comp|lightning_indexer.comp|dequant_q8_0.comp|copy.comp|contig_copy.comp|rope_norm.comp"
    "|rope_neox.comp|fwht.comp"
)
_EMPTY = "#version 450\nlayout(local_size_x = 1) in;\nvoid main() {}\n"
_FLAGS = (
    *("-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O0", "-DGGML_NATIVE=OFF"),
    *("-DGGML_VULKAN=ON", "-DGGML_BACKEND_DL=ON", "-DGGML_CPU=OFF", "-DLLAMA_OPENSSL=OFF"),
    *(f"-DLLAMA_BUILD_{part}=OFF" for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """An unpacked Debian in `root`; `libs` has its libraries, and its dynamic linker. It can be moved as a whole."""

    root: Path

    @property
    def sdk(self) -> Path:
        """Return a folder to set VULKAN_SDK to."""
        return self.root / "sdk"

    @property
    def libs(self) -> Path:
        return self.root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"

    def argv(self, program: Path) -> list[str]:
        """Return what runs a program of this folder, or one of the host's, with this folder's libraries."""
        (linker,) = self.libs.glob("ld-linux-*.so.*")
        return [str(linker), "--library-path", str(self.libs), str(program)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lavapipe:
    """The built backend. `run` starts a program of the CPU build with lavapipe as its device Vulkan0."""

    tools: Tools
    module: Path

    def run(self, program: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[proc.Completed, str]:
        """Return how it ended and all it printed; the validation layers print there too."""
        share = self.tools.root / "usr" / "share" / "vulkan"
        settings = {
            "GGML_BACKEND_PATH": str(self.module),
            "GGML_VK_VISIBLE_DEVICES": "0",  # or ggml skips a device that is a CPU
            "VK_DRIVER_FILES": str(share / "icd.d" / "lvp_icd.json"),
            "VK_LAYER_PATH": str(share / "explicit_layer.d"),
            "VK_LOADER_LAYERS_ENABLE": "VK_LAYER_KHRONOS_validation",
            "MESA_SHADER_CACHE_DIR": str(self.tools.root / "shader-cache"),
            **(env or {}),
        }
        lines: list[str] = []
        argv = [*self.tools.argv(program), *arguments]
        ended = proc.run(proc.Command(argv=argv, env=settings, timeout_s=900), on_line=lines.append)
        return ended, "\n".join(lines)


def tools() -> Tools:
    """Return the tools, from the cache if they are there; skips where this system has no Debian packages."""
    made = Tools(root=paths.cache_dir() / "tools" / f"lavapipe-{_SUITE}")
    made.root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(made.root.parent / ".lavapipe.lock"):
        if not made.root.is_dir():
            with paths.scratch_dir(made.root.parent) as scratch:
                _unpack(scratch)
                _make_sdk(Tools(root=scratch / "root"))
                (scratch / "root").rename(made.root)
    return made


def build(tree: PatchedTree, found: Tools) -> Lavapipe:
    """Compile the backend of `tree` as a module, in the tree; what is compiled stays for the next run."""
    folder = tree.path / "build-lavapipe"
    made = Lavapipe(tools=found, module=folder / "bin" / "libggml-vulkan.so")
    needed = find_tools(tree.path, cmake=(3, 19))
    usr = found.root / "usr"
    flags = (
        f"-DCMAKE_CXX_COMPILER={needed.compiler.cxx}",
        f"-DCMAKE_C_COMPILER={needed.compiler.cc}",
        f"-DCMAKE_MAKE_PROGRAM={needed.ninja}",
        f"-DGGML_CCACHE={'ON' if needed.ccache else 'OFF'}",
        f"-DVulkan_INCLUDE_DIR={usr / 'include'}",
        f"-DVulkan_LIBRARY={found.libs / 'libvulkan.so.1'}",
        f"-DVulkan_GLSLC_EXECUTABLE={_partial_glslc(found)}",
        f"-DSPIRV-Headers_DIR={usr / 'share' / 'cmake' / 'SPIRV-Headers'}",
    )
    argv: list[str | Path] = [needed.cmake, "-G", "Ninja", "-S", tree.path, "-B", folder, *_FLAGS, *flags]
    proc.check(proc.Command(argv=argv, timeout_s=300))
    proc.check(proc.Command(argv=[needed.ninja, "-C", folder, "ggml-vulkan"], timeout_s=3000))
    return made


def compile_program(source: Path, cpu: Build, to: Path) -> Path:
    """Compile a program of ours against the libraries of the CPU build."""
    tree = cpu.bin_dir.parent.parent
    libraries = (f"-L{cpu.bin_dir}", "-lggml", "-lggml-base", f"-Wl,-rpath,{cpu.bin_dir}")
    compiler = (find_compiler().cxx, "-std=c++17", "-O1", f"-I{tree / 'ggml' / 'include'}")
    proc.check(proc.Command(argv=(*compiler, source, "-o", to, *libraries), timeout_s=300))
    return to


def _partial_glslc(found: Tools) -> Path:
    """Return a script that compiles the shaders of _SOURCES, and for all others gives one that does nothing."""
    glslc = found.sdk / "bin" / "glslc"
    empty = found.root / "empty.spv"
    argv = (glslc, "-fshader-stage=compute", "-", "-o", empty)
    proc.check(proc.Command(argv=argv, stdin=_EMPTY, timeout_s=60))
    return _script(
        found.root / "glslc-part",
        f"""source= output= deps= before=
for argument in "$@"; do
  case $before in -o) output=$argument ;; -MF) deps=$argument ;; esac
  case $argument in *.comp) source=${{argument##*/}} ;; esac
  before=$argument
done
[ "$output" = - ] && exec {glslc} "$@" # a test of what it can
case $source in {_SOURCES}) exec {glslc} "$@" ;; esac
[ -z "$deps" ] || : > "$deps"
cp {empty} "$output\"""",
    )


def _make_sdk(found: Tools) -> None:
    """Give the unpacked packages the form of an SDK. Its glslc brings the C library that it needs."""
    (found.sdk / "bin").mkdir(parents=True)
    for name, target in (
        ("include", "usr/include"),
        ("share", "usr/share"),
        ("lib", found.libs.relative_to(found.root)),
    ):
        (found.sdk / name).symlink_to(Path("..", target))
    linker, option, libs, glslc = found.argv(found.root / "usr" / "bin" / "glslc")
    linker, libs, glslc = (f'"$root/{Path(path).relative_to(found.root)}"' for path in (linker, libs, glslc))
    find_root = 'root=$(dirname "$(readlink -f "$0")")/../..'
    _script(found.sdk / "bin" / "glslc", f'{find_root}\nexec {linker} {option} {libs} {glslc} "$@"')


def _script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def _unpack(folder: Path) -> None:
    """Download the packages with all they depend on and unpack them into `folder`/root; about 80 MB."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"the tools for Vulkan are Debian packages, and there is no {program}")
    config = _apt_config(folder, _mirror(folder / "lists"))
    for arguments in (("update",), ("install", "--yes", "--download-only", "--no-install-recommends", *_PACKAGES)):
        ended = proc.run(proc.Command(argv=("apt-get", *arguments), env={"APT_CONFIG": str(config)}, timeout_s=600))
        if not ended.ok:
            last = ended.tail[-1] if ended.tail else ended.ending
            pytest.skip(f"the tools for Vulkan could not be downloaded: apt-get {arguments[0]}: {last}")
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        proc.check(proc.Command(argv=("dpkg-deb", "-x", package, folder / "root"), timeout_s=120))


def _mirror(lists: Path) -> str:
    """Return the mirror of Debian that this system is set up for; apt knows what is Debian's once it has the lists."""
    (lists / "partial").mkdir(parents=True)
    own_lists = ("-o", f"Dir::State::lists={lists}", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true")
    wanted = ("--format", "$(REPO_URI)", "Created-By: Packages", "Component: main", "Origin: Debian")
    for options in ((), own_lists):
        if options:
            proc.run(proc.Command(argv=("apt-get", *options, "update"), timeout_s=300))
        argv = ("apt-get", *options, "indextargets", *wanted)
        if listed := proc.run(proc.Command(argv=argv, timeout_s=60)).stdout.split():
            return listed[0]
    pytest.skip("the tools for Vulkan are Debian packages, and apt knows no mirror of Debian")


def _apt_config(folder: Path, mirror: str) -> Path:
    """Write an apt configuration that knows one suite and leaves the system's own state alone."""
    for place in ("state/lists/partial", "cache/archives/partial", "root"):
        (folder / place).mkdir(parents=True)
    (folder / "status").touch()
    signed = f"[signed-by={_KEYS}] " if _KEYS.is_file() else ""
    (folder / "sources.list").write_text(f"deb {signed}{mirror} {_SUITE} main\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::Etc::preferencesparts": os.devnull,
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Dir::Cache::archives": folder / "cache" / "archives",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "true",
    }
    config = folder / "apt.conf"
    config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    return config
