from __future__ import annotations

from pathlib import Path

import pytest

from tests.trees import Checkout, source_tree
from turbobench import stack
from turbobench.errors import StackError
from turbobench.export import Destination, export
from turbobench.git import Git
from turbobench.source import SourceTree


@pytest.fixture
def source(tmp_path: Path, cache: Path) -> SourceTree:
    return source_tree(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path / "checkout")
    made.add_kernel("new.c", "int new;\n", "src/new.c")
    made.add_patch("cpu/ten.patch", "10", "ten", 10)
    made.add_patch("cpu/fifty.patch", "50", "fifty", 50)
    return made


@pytest.fixture
def tree(source: SourceTree, checkout: Checkout, tmp_path: Path) -> Path:
    """Return a patched tree whose patch files are already in the form that export writes."""
    path = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack()).path
    _export(path, checkout)
    return stack.apply(source, into=path, stack=checkout.stack()).path


def _export(tree: Path, checkout: Checkout) -> list[Path]:
    return export(tree, destination=Destination(patches_dir=checkout.patches, kernels_dir=checkout.kernels))


def _commit(tree: Path, message: str) -> None:
    git = Git.at(tree)
    git.check("add", "-A")
    git.check("commit", "-q", "-F", "-", stdin=message)


def test_export_after_apply_gives_the_same_bytes(tree: Path, checkout: Checkout) -> None:
    before = checkout.content()
    assert _export(tree, checkout) == []
    assert checkout.content() == before


def test_export_writes_from_nothing_what_was_applied(tree: Path, checkout: Checkout) -> None:
    before = checkout.content()
    for name in ("ten", "fifty"):
        (checkout.patches / "cpu" / f"{name}.patch").unlink()
    assert len(_export(tree, checkout)) == 2
    assert checkout.content() == before


def test_the_users_git_configuration_does_not_change_the_bytes(
    tree: Path, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "[diff]\n\tnoprefix = true\n\tcontext = 9\n\talgorithm = patience\n[format]\n\tsignature = me\n"
    (tmp_path / "gitconfig").write_text(options)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert _export(tree, checkout) == []


def test_an_amended_commit_changes_its_patch_alone(tree: Path, checkout: Checkout) -> None:
    (tree / "numbers.txt").write_text((tree / "numbers.txt").read_text().replace("fifty", "FIFTY"))
    Git.at(tree).check("commit", "-q", "-a", "--amend", "--no-edit")
    assert _export(tree, checkout) == [checkout.patches / "cpu" / "fifty.patch"]
    assert "+FIFTY\n" in (checkout.patches / "cpu" / "fifty.patch").read_text()


def test_a_new_commit_becomes_the_patch_that_its_trailer_names(
    tree: Path, checkout: Checkout, source: SourceTree
) -> None:
    (tree / "main.c").write_text("int mäin;\n")
    _commit(tree, "cpu : wörds\n\nBecause.\n\nVerified-by: true\nPatch: ggml/words.patch\n")
    _export(tree, checkout)
    text = (checkout.patches / "ggml" / "words.patch").read_text()
    assert "Subject: [PATCH] cpu : wörds\n\nBecause.\n\nVerified-by: true\n---\n" in text
    assert stack.read_series(checkout.patches) == ["cpu/ten.patch", "cpu/fifty.patch", "ggml/words.patch"]
    assert (checkout.patches / "series").read_text().startswith("# the order\n")
    before = checkout.content()
    stack.apply(source, into=tree, stack=checkout.stack())
    assert _export(tree, checkout) == []
    assert checkout.content() == before


def test_a_commit_without_a_name_is_refused_and_nothing_is_written(tree: Path, checkout: Checkout) -> None:
    (tree / "main.c").write_text("int words;\n")
    _commit(tree, "cpu : words\n")
    before = checkout.content()
    with pytest.raises(StackError, match=r"cpu : words\) has no 'Patch:"):
        _export(tree, checkout)
    assert checkout.content() == before


def test_two_commits_of_one_name_are_refused(tree: Path, checkout: Checkout) -> None:
    (tree / "main.c").write_text("int words;\n")
    _commit(tree, "cpu : words\n\nPatch: cpu/ten.patch\n")
    with pytest.raises(StackError, match=r"two commits are patch cpu/ten\.patch"):
        _export(tree, checkout)


def test_uncommitted_changes_are_refused(tree: Path, checkout: Checkout) -> None:
    (tree / "main.c").write_text("int words;\n")
    with pytest.raises(StackError, match=r"not committed: main\.c"):
        _export(tree, checkout)


def test_a_kernel_edited_in_the_tree_comes_back_to_its_file_and_into_no_patch(tree: Path, checkout: Checkout) -> None:
    (tree / "src" / "new.c").write_text("int newer;\n")
    _commit(tree, "cpu : edit the kernel\n")
    assert _export(tree, checkout) == [checkout.kernels / "new.c"]
    assert (checkout.kernels / "new.c").read_text() == "int newer;\n"


def test_a_kernel_edited_in_the_checkout_survives_every_export(
    tree: Path, checkout: Checkout, source: SourceTree
) -> None:
    (checkout.kernels / "new.c").write_text("int newest;\n")
    for _ in range(2):
        assert _export(tree, checkout) == []
        assert (checkout.kernels / "new.c").read_text() == "int newest;\n"
    stack.apply(source, into=tree, stack=checkout.stack())
    assert (tree / "src" / "new.c").read_text() == "int newest;\n"


def test_a_kernel_edited_on_both_sides_is_refused(tree: Path, checkout: Checkout) -> None:
    (checkout.kernels / "new.c").write_text("int mine;\n")
    (tree / "src" / "new.c").write_text("int yours;\n")
    _commit(tree, "cpu : edit the kernel\n")
    with pytest.raises(StackError, match="both in the checkout and in the tree"):
        _export(tree, checkout)
    assert (checkout.kernels / "new.c").read_text() == "int mine;\n"


def test_a_dropped_commit_drops_its_patch(tree: Path, checkout: Checkout) -> None:
    Git.at(tree).check("reset", "-q", "--hard", "HEAD^")
    _export(tree, checkout)
    assert stack.read_series(checkout.patches) == ["cpu/ten.patch"]
    assert not (checkout.patches / "cpu" / "fifty.patch").exists()
