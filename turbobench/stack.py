"""The patch stack: SourceTree -> PatchedTree, as commits on the pinned one; and back, as patch files.

The commits are made in git's object store alone, and are the same for the same input; the files of the work tree are
touched only once every patch has applied, and only where they differ. So a conflict changes nothing, applying twice
changes nothing, and an update keeps the time stamps that an incremental build goes by.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from turbobench import kernels, patchfile, paths
from turbobench.errors import StackError
from turbobench.git import IDENTITY, Git
from turbobench.patchfile import PatchFile
from turbobench.source import SourceTree

APPLIED_REF = "refs/turbobench/applied"
BASE_REF = "refs/turbobench/base"
OVERLAY_MESSAGE = "ggml : add the kernel files of turbobench\n"
_NEEDED_BYTES = 300 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedTree:
    """A git work tree with kernels and patches in it. `tree_id` names its content, `base_tree_id` the pinned one's."""

    path: Path
    base_commit: str
    base_tree_id: str
    tree_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What is to be applied: the patches in order, and the kernel files."""

    patches_dir: Path
    patches: tuple[tuple[str, bytes], ...]
    files: tuple[kernels.KernelFile, ...]

    def digest(self) -> str:
        """Return a hash of everything that decides the patched tree, 16 hex digits."""
        parts = [part for name, content in self.patches for part in (name.encode(), content)]
        parts += [part for file in self.files for part in (file.dest.encode(), file.path.read_bytes())]
        state = hashlib.sha256()
        for part in parts:
            state.update(len(part).to_bytes(8, "little") + part)
        return state.hexdigest()[:16]

    def fingerprints(self) -> dict[str, str]:
        """Return a hash for each patch and kernel file, to tell later who changed which."""
        patches = {f"patches/{name}": content for name, content in self.patches}
        files = {f"ggml_kernels/{file.name}": file.path.read_bytes() for file in self.files}
        return {name: hashlib.sha256(content).hexdigest() for name, content in (patches | files).items()}


def load_stack(patches_dir: Path | None = None, kernels_dir: Path | None = None) -> Stack:
    """Read `patches/series`, its patches, and the kernel manifest; StackError if one is missing."""
    folder = patches_dir or paths.patches_dir()
    patches = []
    for name in read_series(folder):
        try:
            patches.append((name, (folder / name).read_bytes()))
        except OSError as failure:
            raise StackError(
                f"{folder / 'series'} lists {name}, which cannot be read: {failure.strerror}",
                "add the patch or remove the line",
            ) from failure
    files = kernels.load_manifest(kernels_dir or paths.kernels_dir())
    return Stack(patches_dir=folder, patches=tuple(patches), files=tuple(files))


def read_series(folder: Path) -> list[str]:
    """Return the patch names of `series` in order, without comments."""
    try:
        lines = (folder / "series").read_text().splitlines()
    except OSError as failure:
        raise StackError(
            f"{folder / 'series'}: {failure.strerror}", "run this from a checkout of turbobench"
        ) from failure
    return [name for line in lines if (name := line.partition("#")[0].strip())]


def apply(source: SourceTree, *, into: Path | None = None, stack: Stack | None = None) -> PatchedTree:
    """Put the stack on the pinned source, in the cache or in the directory `into` (new, or of an earlier apply).

    StackError names patch, file and hunk of a conflict, the first changed file of a dirty tree, or says that `into` is
    no tree of ours; the tree is then as it was.
    """
    stack = stack or load_stack()
    target = (into or default_place(source, stack)).absolute()
    locks = paths.cache_dir() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"tree-{hashlib.sha256(os.fsencode(target)).hexdigest()[:16]}.lock"):
        if target.is_dir() and any(target.iterdir()):
            git = _ours(target, source)
            _refuse_dirty(git)
            applied = _compose(git, stack)
            _move(git, applied, stack)
        else:
            with paths.scratch_dir(target.parent) as scratch:
                git = _clone(source, scratch / "tree")
                applied = _compose(git, stack)
                _move(git, applied, stack)
                if target.is_dir():
                    target.rmdir()
                git.work_tree.rename(target)
    return tree_at(target)


def default_place(source: SourceTree, stack: Stack) -> Path:
    """Return where `apply` puts this stack in the cache."""
    return paths.cache_dir() / "patched" / f"{source.tree_id[:12]}-{stack.digest()}"


def check(source: SourceTree, *, stack: Stack | None = None) -> str:
    """Say whether the stack applies to the pinned source, leaving nothing; returns the tree id that it would give."""
    origin = Git.at(source.path)
    with paths.scratch_dir(paths.cache_dir()) as scratch:
        (scratch / "objects").mkdir()
        git = origin.with_env(
            GIT_OBJECT_DIRECTORY=str(scratch / "objects"),
            GIT_ALTERNATE_OBJECT_DIRECTORIES=str(origin.git_dir / "objects"),
        )
        return git.check("rev-parse", f"{_compose(git, stack or load_stack(), base='HEAD')}^{{tree}}")


def tree_at(path: Path) -> PatchedTree:
    """Return the patched tree that `apply` made at `path`, as committed; StackError for a foreign or dirty one."""
    git = _ours(path)
    _refuse_dirty(git)
    return PatchedTree(
        path=path,
        base_commit=git.check("log", "-1", "--format=%s", BASE_REF).split()[-1],
        base_tree_id=git.check("rev-parse", f"{BASE_REF}^{{tree}}"),
        tree_id=git.check("rev-parse", "HEAD^{tree}"),
    )


def state_file(git: Git) -> Path:
    """Return where a tree keeps what its patch and kernel files were when they were applied."""
    return git.git_dir / "turbobench.json"


def _clone(source: SourceTree, into: Path) -> Git:
    paths.require_free(into.parent, _NEEDED_BYTES, "the patched tree")
    origin = Git.at(source.path)
    base = origin.check("rev-parse", "HEAD")
    git = Git.at(into)
    git.init()
    # A copy of the one pack, by hard links where that is possible: it does not depend on the cache afterwards.
    git.check("fetch", "--quiet", "--no-tags", source.path, base)
    git.check("update-ref", BASE_REF, base)
    # Patches are written in the project's name: who wrote them is in the history of patches/.
    git.check("config", "user.name", IDENTITY[0])
    git.check("config", "user.email", IDENTITY[1])
    (git.git_dir / "info").mkdir(exist_ok=True)
    (git.git_dir / "info" / "exclude").write_text("/build-*/\n")
    return git


def _ours(path: Path, source: SourceTree | None = None) -> Git:
    git = Git.at(path)
    base = git.rev(f"{BASE_REF}^{{tree}}") if git.git_dir.is_dir() else None
    if base is None or not git.run("merge-base", "--is-ancestor", BASE_REF, "HEAD").ok:
        raise StackError(f"{path} is not a tree that turbobench made", "name a directory that does not exist yet")
    if source is not None and base != source.tree_id:
        raise StackError(
            f"{path} stands on another llama.cpp: its base tree is {base}, the pinned one is {source.tree_id}",
            "name a directory that does not exist yet",
        )
    return git


def _refuse_dirty(git: Git) -> None:
    if changed := git.changes():
        others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise StackError(
            f"{git.work_tree} has changes that are not committed: {changed[0]}{others}",
            f"commit them: git -C {git.work_tree} commit --amend -a, or as a new patch with a 'Patch: NAME' trailer",
        )


def _compose(git: Git, stack: Stack, base: str = BASE_REF) -> str:
    """Make the commits in the object store, by an index of its own; returns the last one."""
    with paths.scratch_dir(paths.cache_dir()) as scratch:
        git = git.with_env(GIT_INDEX_FILE=str(scratch / "index"))
        tip = git.check("rev-parse", base)
        git.check("read-tree", tip)
        kernels.add_to_index(git, list(stack.files))
        if stack.files:
            tip = git.commit_tree(git.check("write-tree"), OVERLAY_MESSAGE, parent=tip)
        for name, content in stack.patches:
            tip = _commit_patch(git, patchfile.parse(name, content), stack.patches_dir / name, tip)
    return tip


def _commit_patch(git: Git, patch: PatchFile, file: Path, parent: str) -> str:
    applied = git.run("apply", "--cached", "--whitespace=nowarn", file.resolve())
    if not applied.ok:
        raise StackError(
            patchfile.conflict(patch.name, patch.diff, "\n".join(applied.tail)),
            "nothing was changed; mend that hunk in the patch file, or take the patch out of patches/series",
        )
    tree = git.check("write-tree")
    return git.commit_tree(tree, patchfile.with_name(patch.message, patch.name), parent=parent, author=patch.author)


def _move(git: Git, commit: str, stack: Stack) -> None:
    """Bring branch and files to `commit`, unless work of the user would be lost."""
    head, applied = git.rev("HEAD"), git.rev(APPLIED_REF)
    if head not in (None, applied, commit) and git.rev("HEAD^{tree}") != git.rev(f"{commit}^{{tree}}"):
        subject = git.check("log", "-1", "--format=%s")
        raise StackError(
            f"{git.work_tree} has commits that patches/ does not have yet, the last one: {subject}",
            f"keep them with 'turbobench apply --export --dir {git.work_tree}', or use another directory",
        )
    if head != commit:
        # A two-tree merge: it writes only the files that differ, and refuses to overwrite a changed one.
        git.check("read-tree", "-m", "-u", *([head] if head else []), commit)
        git.check("update-ref", "HEAD", commit)
    git.check("update-ref", APPLIED_REF, commit)
    write_state(git, stack.fingerprints())


def write_state(git: Git, fingerprints: dict[str, str]) -> None:
    """Note what the patch and kernel files were, for `export` to see who changed what since."""
    with paths.atomic_path(state_file(git)) as temporary:
        temporary.write_text(json.dumps(fingerprints, indent=1, sort_keys=True))


def read_state(git: Git) -> dict[str, str]:
    try:
        loaded = json.loads(state_file(git).read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return {os.fspath(name): str(value) for name, value in loaded.items()}
