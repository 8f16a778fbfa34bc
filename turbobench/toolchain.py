"""The build tools: which compiler, CMake and Ninja to use, and where to get those that are missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from turbobench import console, host, paths, proc
from turbobench.errors import ToolchainError

Version = tuple[int, ...]

_NINJA_MINIMUM: Version = (1, 10)
PINNED_CMAKE_MINIMUM: Version = (3, 14)  # of the pinned tree, for when it is not here to be read
_CMAKE_MINIMUM = re.compile(r"cmake_minimum_required\(VERSION (\d+)\.(\d+)")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_COMPILERS = (("cc", "c++"), ("gcc", "g++"), ("clang", "clang++"))

# What installs a C and C++ compiler (and git), by the ID or ID_LIKE of /etc/os-release.
_INSTALL = {
    "debian": ("sudo apt-get install {}", "build-essential"),
    "fedora": ("sudo dnf install {}", "gcc gcc-c++"),
    "rhel": ("sudo dnf install {}", "gcc gcc-c++"),
    "arch": ("sudo pacman -S {}", "base-devel"),
    "alpine": ("sudo apk add {}", "build-base"),
    "suse": ("sudo zypper install {}", "gcc gcc-c++"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C and a C++ compiler of one kind. `version` is what the C++ compiler calls itself."""

    cc: str
    cxx: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCompiler:
    """A compiler of device code, such as nvcc; `cmake_flags` say where it is, and are no part of a build's identity."""

    version: str
    cmake_flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a build is made with."""

    compiler: Compiler
    cmake: Path
    ninja: Path
    ccache: Path | None


def install_hint(program: str) -> str:
    """Return the command that installs `program` ("git", "compiler", "ccache") on this system."""
    if sys.platform == "darwin":
        return f"run: brew install {program}" if program == "ccache" else "run: xcode-select --install"
    release = host.os_release()
    for family in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if found := _INSTALL.get(family.replace("opensuse", "suse")):
            command, compiler = found
            return "run: " + command.format(compiler if program == "compiler" else program)
    what = "a C and a C++17 compiler (gcc or clang)" if program == "compiler" else program
    return f"install {what} with your system's package manager"


def find_compiler() -> Compiler:
    """Return the compiler of $CC and $CXX, else the system's; ToolchainError with the command that installs one."""
    asked = (os.environ.get("CC"), os.environ.get("CXX"))
    pairs = ((asked[0] or "cc", asked[1] or "c++"),) if any(asked) else _COMPILERS
    for cc, cxx in pairs:
        versions = [proc.run(proc.Command(argv=(name, "--version"), timeout_s=30)) for name in (cc, cxx)]
        if all(version.ok for version in versions):
            return Compiler(cc=cc, cxx=cxx, version=versions[1].stdout.partition("\n")[0].strip())
    where = f"CC={asked[0]} CXX={asked[1]} cannot be run" if any(asked) else "there is no C and C++ compiler"
    raise ToolchainError(where, install_hint("compiler"))


def find_tools(tree: Path, *, cmake: Version = (0,)) -> Tools:
    """Return everything that building `tree` needs; CMake and Ninja come from the package index if need be.

    `cmake` is the least version of CMake that a backend asks for, beyond what the tree does.
    """
    compiler = find_compiler()
    return Tools(
        compiler=compiler,
        cmake=system_cmake(max(cmake, cmake_minimum(tree))) or _from_index("cmake"),
        ninja=system_ninja() or _from_index("ninja"),
        ccache=system_ccache(),
    )


def cmake_minimum(tree: Path) -> Version:
    """Return the CMake version that the tree's CMakeLists.txt asks for."""
    found = _CMAKE_MINIMUM.search((tree / "CMakeLists.txt").read_text())
    return (int(found[1]), int(found[2])) if found else (0,)


def system_cmake(minimum: Version) -> Path | None:
    return _new_enough("cmake", minimum)


def system_ninja() -> Path | None:
    return _new_enough("ninja", _NINJA_MINIMUM) or _new_enough("ninja-build", _NINJA_MINIMUM)


def system_ccache() -> Path | None:
    found = shutil.which("ccache")
    return Path(found) if found else None


def installed_tool(name: str) -> Path | None:
    """Return the program that an earlier build installed into the cache."""
    folder = _tool_dir(name)
    suffix = ".exe" if sys.platform == "win32" else ""
    # CMake's package has the program inside; its bin/cmake is a script that needs the package on Python's path.
    places = (folder / name / "data" / "bin", folder / "bin", folder / name / "data")
    return next((place / (name + suffix) for place in places if (place / (name + suffix)).is_file()), None)


def version_of(program: Path) -> Version | None:
    """Return the version that `program --version` prints first, or None if it cannot be run."""
    completed = proc.run(proc.Command(argv=(program, "--version"), timeout_s=30))
    found = _VERSION.search(completed.stdout)
    return tuple(int(part) for part in found.groups() if part) if completed.ok and found else None


def _new_enough(name: str, minimum: Version) -> Path | None:
    beside_python = Path(sys.executable).parent  # `pip install turbobench[build]` puts them there
    for found in (shutil.which(name), shutil.which(name, path=str(beside_python))):
        if found and (version_of(Path(found)) or ()) >= minimum:
            return Path(found)
    return None


def _tool_dir(name: str) -> Path:
    return paths.cache_dir() / "tools" / name


def _from_index(name: str) -> Path:
    requirement = _requirement(name)
    folder = _tool_dir(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{name}.lock"):
        if (found := installed_tool(name)) is not None:
            return found
        console.step(f"no {name} that is new enough on this system: installing {requirement} into the cache")
        with paths.scratch_dir(folder.parent) as scratch:
            argv = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
            options = ("--no-deps", "--only-binary", ":all:", "--target", scratch / name)
            ended = proc.run(proc.Command(argv=(*argv, *options, requirement), timeout_s=900))
            if not ended.ok:
                raise ToolchainError(
                    f"{name} is missing or too old, and {requirement} could not be installed: "
                    + (ended.tail[-1] if ended.tail else ended.ending),
                    install_hint(name),
                )
            shutil.rmtree(folder, ignore_errors=True)
            (scratch / name).rename(folder)
    if (found := installed_tool(name)) is None or version_of(found) is None:
        raise ToolchainError(f"the package {requirement} has no {name} that runs here", install_hint(name))
    return found


def _requirement(name: str) -> str:
    """Return the bounds that the project's own metadata give for its `build` extra."""
    try:
        lines = importlib.metadata.requires("turbobench") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is run where it lies
        lines = []
    for line in lines:
        requirement = line.partition(";")[0].replace(" ", "")
        if re.match(rf"{name}[<>=]", requirement):
            return requirement
    return name
