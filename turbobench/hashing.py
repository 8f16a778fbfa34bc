"""SHA-256 of files; that of a large file is remembered, by path, size and time of change, in the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from turbobench import console
from turbobench.paths import atomic_path, cache_dir

_CHUNK = 1 << 22
_WORTH_SHOWING = 1 << 30


def sha256_of(path: Path) -> str:
    """Hash a file, with a progress bar if it is larger than 1 GiB."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as handle:
        if size < _WORTH_SHOWING:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
            return digest.hexdigest()
        with console.progress(download=True) as display:
            task = display.add_task(f"hashing {path.name}", total=size)
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
                display.advance(task, len(chunk))
    return digest.hexdigest()


def cached_sha256(path: Path) -> str:
    """Return the hash, computed only if the file is new, or has changed its size or time since."""
    real = path.resolve()
    status = real.stat()
    state = {"path": str(real), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = cache_dir() / "hashes" / f"{hashlib.sha256(str(real).encode()).hexdigest()[:24]}.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if {key: known[key] for key in state} == state:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing noted, or not readable: hash it again
    digest = sha256_of(real)
    with atomic_path(note) as part:
        part.write_text(json.dumps({**state, "sha256": digest}), encoding="utf-8")
    return digest
