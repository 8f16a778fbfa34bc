"""What compiling llama.cpp for Vulkan needs beside a C++ compiler: headers, loader, SPIR-V headers, glslc.

Looked for in $VULKAN_SDK and where distributions put them. Distributions often have them too old, so each is tried
for what llama.cpp uses of it rather than asked for its version.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from turbobench import host, proc

_PREFIXES = (Path("/usr"), Path("/usr/local"), Path("/opt/homebrew"))
_HEADER = Path("include/vulkan/vulkan_core.h")
_NEWEST_TYPE = "VkLayerSettingEXT"  # of what ggml-vulkan.cpp uses, the last to come into the headers
_SPIRV_CONFIG = "SPIRV-HeadersConfig.cmake"
_LOADERS = ("libvulkan.so", "libvulkan.so.1", "libvulkan.dylib", "vulkan-1.lib")

# Extensions of GLSL that llama.cpp's build tries, in words for a reader. Without the first two, attention and matrix
# products are such that no GPU of today should be judged by them.
_NEEDED = {
    "GL_KHR_cooperative_matrix": "matrix units of any vendor",
    "GL_EXT_integer_dot_product": "integer dot products",
}
_WANTED = {
    "GL_NV_cooperative_matrix2": "NVIDIA's matrix units, as its driver prefers them",
    "GL_NV_cooperative_matrix_decode_vector": "unpacking a cache four values at a time for them",
}

_INSTALL = {
    "debian": "sudo apt-get install libvulkan-dev spirv-headers glslc",
    "fedora": "sudo dnf install vulkan-headers vulkan-loader-devel spirv-headers-devel glslc",
    "arch": "sudo pacman -S vulkan-headers vulkan-icd-loader spirv-headers shaderc",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """What was found. `lack` says what is missing or too old and what to do, or is None; `note` what glslc cannot."""

    lack: str | None
    note: str = ""
    glslc: Path | None = None
    version: str = ""
    cmake_flags: tuple[str, ...] = ()


def find() -> Sdk:
    """Return the SDK that a build made now would use."""
    return _find(os.environ.get("VULKAN_SDK"), os.environ.get("PATH"))


@functools.cache
def _find(sdk: str | None, path: str | None) -> Sdk:
    prefixes = (*([Path(sdk)] if sdk else []), *_PREFIXES)
    include = next((p / "include" for p in prefixes if (p / _HEADER).is_file()), None)
    spirv = next((d for p in prefixes for d in _config_dirs(p) if (d / _SPIRV_CONFIG).is_file()), None)
    library = next((f for p in prefixes for f in _libraries(p) if f.exists()), None)
    glslc = shutil.which("glslc", path=str(Path(sdk) / "bin")) if sdk else None
    glslc = glslc or shutil.which("glslc", path=path)
    absent = [
        name
        for name, found in (
            ("Vulkan headers", include),
            ("SPIR-V headers", spirv),
            ("the Vulkan loader's library", library),
            ("the shader compiler glslc", glslc),
        )
        if not found
    ]
    if absent or not (include and spirv and library and glslc):
        return Sdk(lack=f"{', '.join(absent)} not found in {', '.join(map(str, prefixes))} or on PATH; {_install()}")
    return _judged(include, spirv, library, Path(glslc))


def _judged(include: Path, spirv: Path, library: Path, glslc: Path) -> Sdk:
    old = _old_headers(include)
    without = unsupported(glslc)
    if needed := [words for name, words in _NEEDED.items() if name in without]:
        old.append(f"{glslc} ({_version(glslc)}) cannot compile for {' and '.join(needed)}")
    lacking = [words for name, words in _WANTED.items() if name in without]
    return Sdk(
        lack=f"too old: {'; '.join(old)}; {_newer()}" if old else None,
        note=f"this glslc cannot compile for {' or '.join(lacking)}: GPUs with that may be slower" if lacking else "",
        glslc=glslc,
        version=f"glslc {_version(glslc)}, Vulkan headers {_header_version(include)}",
        cmake_flags=(
            f"-DVulkan_INCLUDE_DIR={include}",
            f"-DVulkan_LIBRARY={library}",
            f"-DVulkan_GLSLC_EXECUTABLE={glslc}",
            f"-DSPIRV-Headers_DIR={spirv}",
        ),
    )


def unsupported(glslc: Path) -> frozenset[str]:
    """Return which of the extensions above glslc does not know, or all of them if it does not run."""
    return frozenset(name for name in (*_NEEDED, *_WANTED) if not _compiles(glslc, name))


def _compiles(glslc: Path, extension: str) -> bool:
    source = f"#version 460\n#extension {extension} : require\nvoid main() {{}}\n"
    argv = (glslc, "-fshader-stage=compute", "--target-env=vulkan1.3", "-", "-o", os.devnull)
    return proc.run(proc.Command(argv=argv, stdin=source, timeout_s=60)).ok


def _old_headers(include: Path) -> list[str]:
    text = (include.parent / _HEADER).read_text(errors="replace")
    if _NEWEST_TYPE in text:
        return []
    return [f"the headers in {include} ({_header_version(include)}) have no {_NEWEST_TYPE}"]


def _header_version(include: Path) -> str:
    text = (include.parent / _HEADER).read_text(errors="replace")
    complete = re.search(r"VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION\(0, (\d+), (\d+),", text)
    patch = re.search(r"define VK_HEADER_VERSION (\d+)", text)
    return f"{complete[1]}.{complete[2]}.{patch[1]}" if complete and patch else "unknown version"


def _version(glslc: Path) -> str:
    found = re.search(r"shaderc v?(\S+)", proc.run(proc.Command(argv=(glslc, "--version"), timeout_s=30)).stdout)
    return found[1] if found else "unknown version"


def _config_dirs(prefix: Path) -> list[Path]:
    return [prefix / place / "cmake" / "SPIRV-Headers" for place in ("share", "lib", "lib64")]


def _libraries(prefix: Path) -> list[Path]:
    triplets = sorted((prefix / "lib").glob("*-linux-gnu*")) if sys.platform == "linux" else []
    folders = (prefix / "lib", prefix / "lib64", prefix / "Lib", *triplets)
    return [folder / name for name in _LOADERS for folder in folders]


def _install() -> str:
    release = host.os_release()
    if release.get("ID") == "debian" and release.get("VERSION_ID", "") in ("11", "12"):
        return _newer()  # what it has would be refused next
    families = (release.get("ID", ""), *release.get("ID_LIKE", "").split())
    command = next((_INSTALL[name] for name in families if name in _INSTALL), "")
    return f"run: {command}" if command else "install them, or the Vulkan SDK, and set VULKAN_SDK to it"


def _newer() -> str:
    return (
        "install those of a newer distribution (Debian 12's are too old, 13's will do; they can be unpacked into a "
        "folder), or the Vulkan SDK, and set VULKAN_SDK to the folder that has include, lib and bin"
    )
