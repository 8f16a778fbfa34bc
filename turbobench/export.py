"""The way back: commits of a patched tree -> `patches/` and `ggml_kernels/`, byte for byte where nothing changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from turbobench import kernels, patchfile, paths, stack
from turbobench.errors import StackError
from turbobench.git import Author, Git
from turbobench.patchfile import PatchFile

# Everything that a user's set-up or another git version might decide otherwise.
_DIFF_OPTIONS = (
    *("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative", "--full-index", "--binary"),
    *("--diff-algorithm=myers", "--indent-heuristic", "-U3", "--inter-hunk-context=0"),
    *("--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where to export to."""

    patches_dir: Path
    kernels_dir: Path

    @classmethod
    def of_checkout(cls) -> Destination:
        return cls(patches_dir=paths.patches_dir(), kernels_dir=paths.kernels_dir())


def export(tree_dir: Path, *, destination: Destination | None = None) -> list[Path]:
    """Write the commits of `tree_dir` as patch files and copy back its kernel files; returns the files that changed.

    A commit says by a trailer `Patch: cpu/name.patch` which file it is. StackError, with nothing written, if one does
    not, if two say the same, if the tree is dirty, or if a file was changed both in the tree and in the checkout.
    """
    to = destination or Destination.of_checkout()
    tree_dir = tree_dir.absolute()
    stack.tree_at(tree_dir)  # refuses a foreign or dirty tree
    git = Git.at(tree_dir)
    files = kernels.load_manifest(to.kernels_dir)
    patches = _patches(git, "HEAD", files)
    known = stack.read_state(git)
    before = {p.name: p.render() for p in _patches(git, stack.APPLIED_REF, files)} if known else {}
    wanted = [(to.patches_dir / p.name, f"patches/{p.name}", p.render(), before.get(p.name)) for p in patches]
    wanted += [(file.path, f"ggml_kernels/{file.name}", _in_tree(git, file), None) for file in files]
    writes = {path: new for path, key, new, old in wanted if _is_news(path, new, known.get(key), changed=new != old)}
    changed = _write(to, writes, [patch.name for patch in patches])
    # A file that is newer in the checkout stays known as it was applied, or the next export would undo it.
    behind = {key: known[key] for path, key, new, _ in wanted if path.read_bytes() != new and key in known}
    git.check("update-ref", stack.APPLIED_REF, "HEAD")
    stack.write_state(git, stack.load_stack(to.patches_dir, to.kernels_dir).fingerprints() | behind)
    return changed


def _write(to: Destination, writes: dict[Path, bytes], names: list[str]) -> list[Path]:
    old = stack.read_series(to.patches_dir)
    series = to.patches_dir / "series"
    if names != old:
        comments = [line for line in series.read_text().splitlines() if line.lstrip().startswith("#")]
        writes[series] = ("\n".join([*comments, *names]) + "\n").encode()
    for path, content in writes.items():
        with paths.atomic_path(path) as temporary:
            temporary.write_bytes(content)
    gone = [to.patches_dir / name for name in old if name not in names]
    for path in gone:
        path.unlink(missing_ok=True)
    return [*writes, *gone]


def _is_news(path: Path, content: bytes, was: str | None, *, changed: bool) -> bool:
    """Return whether the tree's `content` is to replace the file, whose hash at the apply was `was`.

    StackError if both were changed since. `changed` says whether the tree's was.
    """
    if not path.exists():
        return True
    current = path.read_bytes()
    if current == content:
        return False
    if was is None or hashlib.sha256(current).hexdigest() == was:
        return True
    if not changed or hashlib.sha256(content).hexdigest() == was:
        return False  # only the checkout's file was changed: the next apply brings it into the tree
    raise StackError(
        f"{path} was changed both in the checkout and in the tree since it was applied",
        "bring one of them to the other's state by hand, and export again",
    )


def _patches(git: Git, tip: str, files: list[kernels.KernelFile]) -> list[PatchFile]:
    """Return a patch for each commit since the base that changes more than kernel files, in order."""
    commits = git.check("rev-list", "--reverse", "--first-parent", f"{stack.BASE_REF}..{tip}").split()
    patches: list[PatchFile] = []
    for commit in commits:
        patch = _patch_of(git, commit, files)
        if patch is None:
            continue
        if patch.name in (other.name for other in patches):
            raise StackError(
                f"two commits are patch {patch.name}; the second is {commit[:10]}",
                f"make them one: git -C {git.work_tree} rebase -i {stack.BASE_REF}",
            )
        patches.append(patch)
    return patches


def _patch_of(git: Git, commit: str, files: list[kernels.KernelFile]) -> PatchFile | None:
    diff = _diff(git, commit, files)
    if not diff:
        return None
    name, email, date, text = git.check("log", "-1", "--format=%an%n%ae%n%aD%n%B", commit).split("\n", 3)
    if text == stack.OVERLAY_MESSAGE:
        return None  # with files of an older manifest
    message, patch = patchfile.without_name(text)
    subject = message.partition("\n")[0]
    if patch is None or not patch.endswith(".patch") or patch.startswith("/") or ".." in patch:
        raise StackError(
            f"commit {commit[:10]} ({subject}) has no 'Patch: subsystem/name.patch' trailer",
            f"name it: git -C {git.work_tree} commit --amend --no-edit --trailer 'Patch: cpu/NAME.patch'",
        )
    if any(line == "---" or line.startswith(("diff -", "Index: ")) for line in message.splitlines()):
        raise StackError(f"the message of commit {commit[:10]} has a line that looks like a diff", "reword that line")
    return PatchFile(name=patch, author=Author(name=name, email=email, date=date), message=message, diff=diff)


def _diff(git: Git, commit: str, files: list[kernels.KernelFile]) -> bytes:
    """Return the commit's diff without the kernel files, through a file: text decoding would change bytes."""
    without = [f":(exclude,literal){file.dest}" for file in files]
    with paths.scratch_dir(paths.cache_dir()) as scratch:
        out = scratch / "diff"
        git.check("diff", *_DIFF_OPTIONS, f"--output={out}", f"{commit}^", commit, "--", ".", *without)
        return out.read_bytes()


def _in_tree(git: Git, file: kernels.KernelFile) -> bytes:
    try:
        return (git.work_tree / file.dest).read_bytes()
    except OSError as failure:
        if file.path.is_file() and f"ggml_kernels/{file.name}" not in stack.read_state(git):
            return file.path.read_bytes()  # new in the manifest, not applied yet
        raise StackError(
            f"{file.dest} is gone from the tree, and ggml_kernels/manifest.yaml still lists it",
            "take its line out of the manifest, or bring the file back",
        ) from failure
