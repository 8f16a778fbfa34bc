from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.trees import Checkout, source_tree
from turbobench import stack
from turbobench.errors import StackError
from turbobench.git import Git
from turbobench.source import SourceTree


@pytest.fixture
def source(tmp_path: Path, cache: Path) -> SourceTree:
    return source_tree(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def _times(tree: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in tree.iterdir() if path.is_file()}


def test_an_empty_stack_gives_the_pinned_tree(source: SourceTree, checkout: Checkout) -> None:
    patched = stack.apply(source, stack=checkout.stack())
    assert patched.tree_id == source.tree_id == patched.base_tree_id
    assert patched.base_commit == source.commit


def test_patches_and_kernels_are_in_the_tree(source: SourceTree, checkout: Checkout) -> None:
    checkout.add_kernel("new.c", "int new;\n", "src/new.c")
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    checkout.add_patch("cpu/fifty.patch", "50", "fifty", 50)
    patched = stack.apply(source, stack=checkout.stack())
    assert (patched.path / "src" / "new.c").read_text() == "int new;\n"
    assert (patched.path / "numbers.txt").read_text().splitlines()[9::40][:2] == ["ten", "fifty"]


def test_reapplying_the_series_changes_nothing(source: SourceTree, checkout: Checkout) -> None:
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    first = stack.apply(source, stack=checkout.stack())
    times = _times(first.path)
    assert stack.apply(source, stack=checkout.stack()) == first
    assert _times(first.path) == times


def test_the_same_stack_gives_the_same_commits_everywhere(
    source: SourceTree, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    trees = [stack.apply(source, into=tmp_path / name, stack=checkout.stack()).path for name in ("a", "b")]
    assert Git.at(trees[0]).rev("HEAD") == Git.at(trees[1]).rev("HEAD")


def test_an_update_touches_only_files_that_differ(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    tree = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack()).path
    before = _times(tree)
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    stack.apply(source, into=tree, stack=checkout.stack())
    changed = {path for path, time in _times(tree).items() if before[path] != time}
    assert changed == {str(tree / "numbers.txt")}


def test_a_conflict_names_patch_file_and_hunk_and_leaves_the_tree(
    source: SourceTree, checkout: Checkout, tmp_path: Path
) -> None:
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    tree = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack())
    checkout.add_patch("cpu/wrong.patch", "ninety", "90", 50)
    with pytest.raises(StackError, match=r"cpu/wrong\.patch does not apply at numbers\.txt:49 \(hunk 1 of 1: @@ -49,3"):
        stack.apply(source, into=tree.path, stack=checkout.stack())
    assert stack.tree_at(tree.path) == tree


def test_a_conflict_leaves_no_tree_behind(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    checkout.add_patch("cpu/wrong.patch", "ninety", "90", 50)
    with pytest.raises(StackError):
        stack.apply(source, into=tmp_path / "trees" / "tree", stack=checkout.stack())
    assert not list((tmp_path / "trees").iterdir())


def test_check_leaves_nothing(source: SourceTree, checkout: Checkout, cache: Path) -> None:
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    before = sorted(cache.rglob("*"))
    tree_id = stack.check(source, stack=checkout.stack())
    assert sorted(cache.rglob("*")) == before
    assert stack.apply(source, stack=checkout.stack()).tree_id == tree_id


def test_check_refuses_a_patch_that_does_not_apply(source: SourceTree, checkout: Checkout) -> None:
    checkout.add_patch("cpu/wrong.patch", "ninety", "90", 50)
    with pytest.raises(StackError, match=r"cpu/wrong\.patch"):
        stack.check(source, stack=checkout.stack())


def test_a_dirty_tree_is_refused_by_its_first_file(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    tree = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack()).path
    (tree / "main.c").write_text("mine\n")
    with pytest.raises(StackError, match=r"not committed: main\.c"):
        stack.apply(source, into=tree, stack=checkout.stack())
    assert (tree / "main.c").read_text() == "mine\n"


def test_a_foreign_directory_is_refused(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine\n")
    with pytest.raises(StackError, match="is not a tree that turbobench made"):
        stack.apply(source, into=tmp_path / "mine", stack=checkout.stack())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_commits_that_were_not_exported_are_not_lost(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    tree = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack()).path
    (tree / "main.c").write_text("int mine;\n")
    Git.at(tree).check("commit", "-q", "-a", "-m", "mine")
    checkout.add_patch("cpu/ten.patch", "10", "ten", 10)
    with pytest.raises(StackError, match="commits that patches/ does not have yet, the last one: mine"):
        stack.apply(source, into=tree, stack=checkout.stack())
    assert (tree / "main.c").read_text() == "int mine;\n"


def test_the_tree_does_not_depend_on_the_cached_source(source: SourceTree, checkout: Checkout, tmp_path: Path) -> None:
    tree = stack.apply(source, into=tmp_path / "tree", stack=checkout.stack())
    shutil.rmtree(source.path)
    assert stack.tree_at(tree.path) == tree


def test_a_kernel_never_overwrites_an_upstream_file(source: SourceTree, checkout: Checkout) -> None:
    checkout.add_kernel("main.c", "int other;\n", "main.c")
    with pytest.raises(StackError, match=r"main\.c would overwrite an upstream file"):
        stack.apply(source, stack=checkout.stack())


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("files: {gone.c: src/gone.c}\n", "gone.c, which is not there"),
        ("files: {manifest.yaml: ../out.c}\n", "leaves the tree"),
        ("file: {}\n", "is not a manifest"),
    ],
)
def test_a_wrong_manifest_is_refused(checkout: Checkout, manifest: str, reason: str) -> None:
    (checkout.kernels / "manifest.yaml").write_text(manifest)
    with pytest.raises(StackError, match=reason):
        checkout.stack()


def test_a_series_that_lists_a_missing_patch_is_refused(checkout: Checkout) -> None:
    (checkout.patches / "series").write_text("cpu/gone.patch\n")
    with pytest.raises(StackError, match=r"lists cpu/gone\.patch"):
        checkout.stack()


def test_the_projects_own_stack_can_be_read() -> None:
    assert len(stack.load_stack().digest()) == 16
