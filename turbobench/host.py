"""What the operating system says about this host that a build depends on: instruction sets, memory, distribution."""

from __future__ import annotations

import functools
import platform
import re
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the instruction-set flags that Linux lists; empty elsewhere."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _CPUINFO.read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split() if found else ())


def available_memory_bytes() -> int | None:
    """Return how much memory can be had without swapping, or None where Linux's figure is missing."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def os_name() -> str:
    """Return the system's name and version, as people know it."""
    return os_release().get("PRETTY_NAME") or f"{platform.system()} {platform.release()}"


def os_release() -> dict[str, str]:
    """Return the fields of /etc/os-release; none where there is no such file."""
    try:
        return platform.freedesktop_os_release() if sys.platform == "linux" else {}
    except OSError:
        return {}
