"""Where things live: the project's own data files, and the user cache (`TURBOBENCH_CACHE` overrides it)."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from turbobench.errors import DiskFullError

_PACKAGE_DIR = Path(__file__).resolve().parent
_CACHE_VARIABLE = "TURBOBENCH_CACHE"
_SCRATCH = ".part-"


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


def kv_center_beside(model: Path) -> Path:
    """Return where `turbobench calibrate` writes the means of K of this model, and where a sweep looks for them."""
    return model.with_name(f"{model.stem}.kv-center.gguf")


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


@contextmanager
def scratch_dir(parent: Path) -> Iterator[Path]:
    """Yield a temporary directory inside `parent` (so that a rename into `parent` is atomic); it is always removed.

    What a killed process left behind is removed too.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{_SCRATCH}*"):
        owner = old.name.removeprefix(_SCRATCH).partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-", dir=parent))
    try:
        yield scratch
    except OSError as failure:
        raise_if_disk_full(failure, parent)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def require_free(folder: Path, need_bytes: int, what: str) -> None:
    """Raise DiskFullError, with the figures, unless the disk of `folder` has room for `what`."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < need_bytes:
        raise DiskFullError(
            f"{what} needs {need_bytes / 1e9:.1f} GB, and {existing} has {free / 1e9:.1f} GB free",
            f"free some space there, or set {_CACHE_VARIABLE} to a folder on a larger disk",
        )


def raise_if_disk_full(failure: OSError, target: Path) -> None:
    """Turn ENOSPC and EDQUOT into a `DiskFullError` that names the folder."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFullError(
            f"no space left while writing {target}",
            f"free some space there, or set {_CACHE_VARIABLE} to a folder on a larger disk, and run it again",
        ) from failure
