"""One git repository, driven so that nothing of the user's git set-up changes the result."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from turbobench import proc
from turbobench.errors import DiskFullError, ToolchainError
from turbobench.toolchain import install_hint

# Where a commit's date or name is not the point, it is fixed, so that equal trees are equal commits.
FIXED_DATE = "2026-10-01T00:00:00+00:00"
IDENTITY = ("turbobench", "turbobench@localhost")

_ISOLATION = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
}
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
_OPTIONS = (
    *("-c", "safe.directory=*"),  # a cache on a mounted volume may belong to another user
    *("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.attributesFile="),
    *("-c", "core.excludesFile=", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *(
        "-c",
        "commit.gpgSign=false",
        "-c",
        "gc.auto=0",
        "-c",
        "core.looseCompression=0",
        "-c",
        "pack.compression=1",
        "-c",
        "advice.detachedHead=false",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """A repository whose files are in `work_tree`. `env` can redirect the index or the object store."""

    work_tree: Path
    git_dir: Path
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, work_tree: Path) -> Git:
        return cls(work_tree=work_tree, git_dir=work_tree / ".git")

    def with_env(self, **env: str) -> Git:
        return Git(work_tree=self.work_tree, git_dir=self.git_dir, env={**self.env, **env})

    def run(
        self,
        *args: str | Path,
        stdin: str | None = None,
        timeout_s: float | None = None,
        user_config: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> proc.Completed:
        """Run a git command to its end, whatever it returns; ToolchainError without git, DiskFullError on ENOSPC.

        `user_config` lets the user's configuration in: proxies and mirrors, for the commands that use the network.
        """
        # A caller inside a git hook has these set, for another repository.
        own = {"GIT_INDEX_FILE": str(self.git_dir / "index"), "GIT_OBJECT_DIRECTORY": str(self.git_dir / "objects")}
        own = own if self.git_dir.is_dir() else {}
        argv = ("git", *_OPTIONS, f"--git-dir={self.git_dir}", f"--work-tree={self.work_tree}", *args)
        command = proc.Command(
            argv=argv,
            cwd=self.work_tree if self.work_tree.is_dir() else None,
            env={**own, **_QUIET, **({} if user_config else _ISOLATION), **self.env},
            stdin=stdin,
            timeout_s=timeout_s,
        )
        completed = proc.run(command, on_line=on_line)
        _raise_for_environment(completed)
        return completed

    def check(self, *args: str | Path, stdin: str | None = None) -> str:
        """Run a git command that must succeed; returns its stdout without the last newline."""
        completed = self.run(*args, stdin=stdin)
        if not completed.ok:
            raise proc.CommandError(completed)
        return completed.stdout.removesuffix("\n")

    def rev(self, name: str) -> str | None:
        """Return the object id of `name`, or None if there is no such object."""
        completed = self.run("rev-parse", "--verify", "--quiet", name)
        return completed.stdout.strip() if completed.ok else None

    def init(self) -> None:
        self.work_tree.mkdir(parents=True, exist_ok=True)
        self.check("init", "--quiet", "--template=", "--initial-branch=turbobench")

    def write_tree_of_files(self) -> str:
        """Put every file of the work tree into the index, ignored ones too, and return the tree id."""
        self.check("add", "-A", "-f", ".")
        return self.check("write-tree")

    def commit_tree(self, tree: str, message: str, *, parent: str | None = None, author: Author | None = None) -> str:
        """Make a commit that depends on its arguments alone; returns its id."""
        author = author or Author(name=IDENTITY[0], email=IDENTITY[1], date=FIXED_DATE)
        fixed = self.with_env(
            GIT_AUTHOR_NAME=author.name,
            GIT_AUTHOR_EMAIL=author.email,
            GIT_AUTHOR_DATE=author.date,
            GIT_COMMITTER_NAME=IDENTITY[0],
            GIT_COMMITTER_EMAIL=IDENTITY[1],
            GIT_COMMITTER_DATE=FIXED_DATE,
        )
        parents = ("-p", parent) if parent else ()
        return fixed.check("commit-tree", tree, *parents, "-F", "-", stdin=message)

    def changes(self) -> list[str]:
        """Return the paths that differ from HEAD, untracked ones included, ignored ones not."""
        lines = self.check("status", "--porcelain=v1", "-z", "--untracked-files=all", "--no-renames").split("\0")
        return [line[3:] for line in lines if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who wrote a commit, and when (a date as git reads it)."""

    name: str
    email: str
    date: str


def reason(completed: proc.Completed) -> str:
    """Return the one line of a failed git command that says why."""
    if completed.timed_out:
        return completed.ending
    telling = [line for line in completed.tail if line.startswith(("fatal:", "error:"))]
    last = completed.tail[-1] if completed.tail else completed.ending
    return telling[0] if telling else last


def _raise_for_environment(completed: proc.Completed) -> None:
    if completed.returncode == 127:
        raise ToolchainError("git is not installed", install_hint("git"))
    if not completed.ok and any("No space left on device" in line for line in completed.tail):
        raise DiskFullError(
            f"no space left while git wrote to {completed.argv[-1]}: {reason(completed)}",
            "free some space, or set TURBOBENCH_CACHE to a folder on a larger disk, and run it again",
        )
