"""Where things live: the project's own data files, and the user cache (`TURBOBENCH_CACHE` overrides it)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from turbobench.errors import DiskFullError

_PACKAGE_DIR = Path(__file__).resolve().parent
_CACHE_VARIABLE = "TURBOBENCH_CACHE"


def project_dir() -> Path:
    """Return the folder that holds `patches/`, `ggml_kernels/` and `configs/`: the checkout, else the wheel's copy."""
    checkout = _PACKAGE_DIR.parent
    if (checkout / "patches" / "series").is_file():
        return checkout
    return _PACKAGE_DIR / "_data"


def patches_dir() -> Path:
    return project_dir() / "patches"


def kernels_dir() -> Path:
    return project_dir() / "ggml_kernels"


def configs_dir() -> Path:
    return project_dir() / "configs"


def cache_dir() -> Path:
    """Return the user cache folder (not necessarily existing)."""
    override = os.environ.get(_CACHE_VARIABLE)
    return Path(override).expanduser().resolve() if override else Path(platformdirs.user_cache_dir("turbobench"))


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it becomes `target` whole, on any failure it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as failure:
        raise_if_disk_full(failure, target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def raise_if_disk_full(failure: OSError, target: Path) -> None:
    """Turn ENOSPC and EDQUOT into a `DiskFullError` that names the folder."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(
            f"no space left while writing {target}",
            f"free some space there, or set {_CACHE_VARIABLE} to a folder on a larger disk, and run it again",
        ) from failure
