"""A small stand-in for llama.cpp: a CMake project with the measuring programs' names, and a pin for it."""

from __future__ import annotations

from pathlib import Path

from turbobench.git import Git
from turbobench.source import Pin, SourceTree, fetch
from turbobench.stack import Stack, load_stack

_FILES = {
    "CMakeLists.txt": """\
cmake_minimum_required(VERSION 3.14...3.28)
project("mini" C CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
foreach (name llama-bench llama-perplexity llama-quantize)
    add_executable(${name} main.c)
endforeach()
add_executable(llama-server EXCLUDE_FROM_ALL main.c)
""",
    "main.c": "int main(void) {\n    return 0;\n}\n",
    "numbers.txt": "".join(f"{number}\n" for number in range(1, 101)),
    ".gitignore": "/build*\n*.log\n",
    "kept.log": "an ignored file that is part of the tree\n",
}


def write_files(folder: Path) -> Path:
    """Write the project's files, without git."""
    folder.mkdir(parents=True)
    for name, text in _FILES.items():
        (folder / name).write_text(text)
    return folder


def pin_of(files: Path, scratch: Path, *, url: str = "") -> Pin:
    """Return the pin of a folder's content."""
    git = Git(work_tree=files, git_dir=scratch / "pin.git")
    git.init()
    return Pin(commit="c" * 40, tree=git.write_tree_of_files(), url=url or str(scratch / "nowhere"), sdist="no==1")


def source_tree(tmp_path: Path) -> SourceTree:
    """Put the project into the (test's own) cache."""
    files = write_files(tmp_path / "upstream")
    return fetch(pin_of(files, tmp_path), source=files)


class Checkout:
    """A checkout of turbobench: `patches/` and `ggml_kernels/` in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.patches = folder / "patches"
        self.kernels = folder / "ggml_kernels"
        self.patches.mkdir(parents=True)
        self.kernels.mkdir()
        (self.patches / "series").write_text("# the order\n")
        (self.kernels / "manifest.yaml").write_text("files: {}\n")

    def add_patch(self, name: str, old: str, new: str, line: int) -> None:
        """Add a patch that replaces one line of numbers.txt."""
        path = self.patches / name
        path.parent.mkdir(exist_ok=True)
        head = f"From: A. Writer <a@example.org>\nSubject: [PATCH] test : {old} becomes {new}\n\nWhy not.\n---\n"
        diff = (
            "diff --git a/numbers.txt b/numbers.txt\n--- a/numbers.txt\n+++ b/numbers.txt\n"
            f"@@ -{line - 1},3 +{line - 1},3 @@\n {line - 1}\n-{old}\n+{new}\n {line + 1}\n"
        )
        path.write_text(head + diff)
        with (self.patches / "series").open("a") as series:
            series.write(f"{name}\n")

    def add_kernel(self, name: str, text: str, dest: str) -> Path:
        (self.kernels / name).write_text(text)
        (self.kernels / "manifest.yaml").write_text(f"files:\n  {name}: {dest}\n")
        return self.kernels / name

    def stack(self) -> Stack:
        return load_stack(self.patches, self.kernels)

    def content(self) -> dict[str, bytes]:
        """Return every file's bytes, to compare before and after."""
        folders = (self.patches, self.kernels)
        return {str(path): path.read_bytes() for top in folders for path in sorted(top.rglob("*")) if path.is_file()}
