from __future__ import annotations

import pytest

from turbobench.errors import StackError
from turbobench.git import Author
from turbobench.patchfile import PatchFile, conflict, parse, with_name, without_name

_DIFF = b"diff --git a/x.c b/x.c\n--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n@@ -9,2 +9,2 @@ int main\n-c\n+d\n e\n"
_PATCH = PatchFile(
    name="cpu/x.patch",
    author=Author(name="A. Writer", email="a@example.org", date="Thu, 1 Oct 2026 00:00:00 +0000"),
    message="cpu : x\n\nWhy — because.\n\nForwarded: no\n",
    diff=_DIFF,
)


def test_what_is_written_is_read_back() -> None:
    assert parse("cpu/x.patch", _PATCH.render()) == _PATCH


@pytest.mark.parametrize("message", ["cpu : x\n", "cpu : x\n\nWhy.\n", "cpu : x\n\nWhy.\n\nForwarded: no\n"])
def test_the_name_can_be_taken_off_again(message: str) -> None:
    assert without_name(with_name(message, "cpu/x.patch")) == (message, "cpu/x.patch")


def test_the_form_of_git_format_patch_is_read() -> None:
    content = (
        b"From 0123 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nDate: Thu, 1 Oct 2026 00:00:00 +0000\n"
        b"Subject: [PATCH 2/3] cpu : x\n\nWhy.\n---\n x.c | 2 +-\n 1 file changed\n\n" + _DIFF + b"-- \n2.39.5\n\n"
    )
    read = parse("x.patch", content)
    assert (read.message, read.diff) == ("cpu : x\n\nWhy.\n", _DIFF)


@pytest.mark.parametrize("content", [b"", b"Subject: x\n\n---\nno diff\n", b"From: a <b>\n\n---\n" + _DIFF])
def test_what_is_no_patch_is_refused(content: bytes) -> None:
    with pytest.raises(StackError, match=r"patch x\.patch has no subject"):
        parse("x.patch", content)


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        (
            "error: patch failed: x.c:9\nerror: x.c: patch does not apply",
            "at x.c:9 (hunk 2 of 2: @@ -9,2 +9,2 @@ int main)",
        ),
        ("error: x.c: does not exist in index", "does not apply to x.c: does not exist in index"),
        ("error: corrupt patch at line 12", "does not apply: corrupt patch at line 12"),
    ],
)
def test_a_conflict_is_told_as_git_saw_it(stderr: str, told: str) -> None:
    assert told in conflict("cpu/x.patch", _DIFF, stderr)
