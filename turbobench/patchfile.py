"""A patch file: an upstream-style commit as text, in exactly one form, so that export gives back the same bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from turbobench.errors import StackError
from turbobench.git import FIXED_DATE, IDENTITY, Author

_FROM_LINE = "From " + 40 * "0" + " Mon Sep 17 00:00:00 2001"
_NAME_TRAILER = re.compile(r"^Patch: (\S+)\n?", re.MULTILINE)
_TRAILER = re.compile(r"^[A-Za-z][A-Za-z-]*: \S")
_FAILED = re.compile(r"^error: patch failed: (?P<file>.+):(?P<line>\d+)$", re.MULTILINE)
_OTHER = re.compile(r"^error: (?:(?P<file>[^:\n]+): )?(?P<why>.+)$", re.MULTILINE)
_HUNK = re.compile(r"^@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@.*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchFile:
    """`name` is the path inside `patches/`; `message` the commit message; `diff` the bytes that git made."""

    name: str
    author: Author
    message: str
    diff: bytes

    def render(self) -> bytes:
        """Return the file's content: a mail as `git am` takes it, without diffstat and signature."""
        subject, _, body = self.message.partition("\n")
        head = [
            _FROM_LINE,
            f"From: {self.author.name} <{self.author.email}>",
            f"Date: {self.author.date}",
            f"Subject: [PATCH] {subject}",
            "",
        ]
        text = body.strip("\n")
        return "\n".join([*head, *([text] if text else []), "---", ""]).encode() + self.diff


def parse(name: str, content: bytes) -> PatchFile:
    """Read a patch file; StackError if it has no subject or no diff."""
    head, _, rest = content.partition(b"\n\n")
    fields = dict(line.partition(": ")[::2] for line in head.decode(errors="replace").splitlines() if ": " in line)
    subject = re.sub(r"^\[PATCH[^\]]*\]\s*", "", fields.get("Subject", ""))
    body, separator, diff = (b"\n" + rest).partition(b"\n---\n")
    start = diff.find(b"diff --git ")
    if not subject or not separator or start < 0:
        raise StackError(
            f"patch {name} has no subject, no '---' line or no diff",
            "write it with 'turbobench apply --export', or in the form of 'git format-patch'",
        )
    who = re.fullmatch(r"(.*?)\s*<(.*)>", fields.get("From", ""))
    author = Author(
        name=who[1] if who else IDENTITY[0],
        email=who[2] if who else IDENTITY[1],
        date=fields.get("Date", FIXED_DATE),
    )
    text = body.decode(errors="replace").strip("\n")
    # A signature of git format-patch, which would otherwise come back from nowhere.
    diff = re.sub(rb"\n-- \n[^\n]*\n*\Z", b"\n", diff[start:])
    return PatchFile(name=name, author=author, message=subject + (f"\n\n{text}\n" if text else "\n"), diff=diff)


def with_name(message: str, name: str) -> str:
    """Add the trailer `Patch: name`, by which export knows the file that a commit belongs to."""
    lines = message.rstrip("\n").split("\n")
    joined = len(lines) > 1 and _TRAILER.match(lines[-1]) is not None
    return "\n".join([*lines, *([] if joined else [""]), f"Patch: {name}", ""])


def without_name(message: str) -> tuple[str, str | None]:
    """Take the trailer `Patch: name` off again: the message as it was, and the name if there was one."""
    found = _NAME_TRAILER.findall(message)
    return _NAME_TRAILER.sub("", message).rstrip("\n") + "\n", found[-1] if found else None


def conflict(name: str, patch: bytes, stderr: str) -> str:
    """Say which patch, file and hunk `git apply` (whose stderr this is) refused."""
    if found := _FAILED.search(stderr):
        hunk = _hunk_at(patch.decode(errors="replace"), found["file"], int(found["line"]))
        return f"patch {name} does not apply at {found['file']}:{found['line']}{hunk}"
    if other := _OTHER.search(stderr):
        where = f" to {other['file']}" if other["file"] else ""
        return f"patch {name} does not apply{where}: {other['why']}"
    return f"patch {name} does not apply"


def _hunk_at(patch: str, file: str, line: int) -> str:
    """Render the hunk of `file` that starts at old line `line` as ` (hunk 2 of 3: @@ …)`."""
    section = re.search(rf"^--- a/{re.escape(file)}$(.*?)(?=^diff --git |\Z)", patch, re.MULTILINE | re.DOTALL)
    hunks = [m for text in (section[1] if section else "").split("\n") if (m := _HUNK.match(text))]
    for number, match in enumerate(hunks, 1):
        if int(match[1]) == line:
            return f" (hunk {number} of {len(hunks)}: {match[0]})"
    return ""
