"""The overlay: files of `ggml_kernels/`, and where `manifest.yaml` puts them in the llama.cpp tree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import yaml

from turbobench.errors import StackError
from turbobench.git import Git

_MANIFEST = "manifest.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFile:
    """One file: `path` here, `name` relative to `ggml_kernels/`, `dest` relative to the llama.cpp tree."""

    path: Path
    name: str
    dest: str


def load_manifest(folder: Path) -> list[KernelFile]:
    """Read `manifest.yaml`; StackError for an entry that is missing, leaves the tree, or is given twice."""
    manifest = folder / _MANIFEST
    try:
        loaded = yaml.safe_load(manifest.read_text())
        entries = {str(name): str(dest) for name, dest in loaded["files"].items()}
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as failure:
        raise StackError(
            f"{manifest} is not a manifest: {failure}", "it needs 'files:', with source: destination"
        ) from failure
    files = [KernelFile(path=folder / name, name=name, dest=dest) for name, dest in entries.items()]
    for file in files:
        if not file.path.is_file():
            raise StackError(f"{manifest} lists {file.name}, which is not there", "add the file or remove the line")
        if any(
            PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts for path in (file.name, file.dest)
        ):
            raise StackError(f"{manifest}: {file.name}: {file.dest} leaves the tree", "use paths inside of it")
    if len(set(entries.values())) != len(entries):
        raise StackError(f"{manifest} puts two files in one place", "give each a destination of its own")
    return files


def add_to_index(git: Git, files: list[KernelFile]) -> None:
    """Put the files into git's index at their destinations; StackError if upstream has one of them already."""
    if not files:
        return
    existing = git.check("ls-files", "--", *(f":(literal){file.dest}" for file in files)).splitlines()
    if existing:
        raise StackError(
            f"the kernel file for {existing[0]} would overwrite an upstream file",
            "give it another name in ggml_kernels/manifest.yaml; upstream files are changed by patches only",
        )
    blobs = git.check("hash-object", "-w", "--no-filters", "--", *(file.path.resolve() for file in files)).splitlines()
    lines = (f"100644 {blob}\t{file.dest}\n" for blob, file in zip(blobs, files, strict=True))
    git.check("update-index", "--add", "--index-info", stdin="".join(lines))
