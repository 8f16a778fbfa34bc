"""What the measuring machine is and whether it is idle: read from the operating system, never guessed."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from turbobench import proc

_CPUINFO = Path("/proc/cpuinfo")
_STAT = Path("/proc/stat")
_MEMINFO = Path("/proc/meminfo")
_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RANDOM_NODE = 1 << 40  # what uuid.getnode sets in a number that it made up because no interface has an address


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine as a report names it. `cores` are the logical CPUs this process may use."""

    cpu: str
    cores: int
    ram_gib: float | None
    system: str


def this_machine() -> Machine:
    return Machine(cpu=_cpu_name(), cores=usable_cores(), ram_gib=_ram_gib(), system=platform.platform(terse=True))


def host_id() -> str:
    """Return a short hash that tells this machine from another of the same kind, and says nothing else about it."""
    return hashlib.sha256(f"turbobench {_identity()}".encode()).hexdigest()[:12]


def _identity() -> str:
    """Return the machine's id or network address; where a container has neither, what lasts until the next boot."""
    for path in _MACHINE_IDS:
        if path.is_file() and (text := path.read_text().strip()):
            return text
    node = uuid.getnode()
    if not node & _RANDOM_NODE:
        return f"{platform.node()} {node}"
    return f"{platform.node()} {_BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else ''}"


def usable_cores() -> int:
    """Return how many logical CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_cores(over_s: float = 0.5) -> float | None:
    """Return how many cores' worth of work ran during the next `over_s` seconds; None where the system does not say."""
    first = _busy_ticks()
    if first is None:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    time.sleep(over_s)
    second = _busy_ticks()
    return None if second is None else (second - first) / os.sysconf("SC_CLK_TCK") / over_s


def _busy_ticks() -> int | None:
    """User, nice, system, irq, softirq and steal time of all CPUs since boot (proc_stat(5))."""
    try:
        fields = [int(part) for part in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return user + nice + system + irq + softirq + steal


def _cpu_name() -> str:
    try:
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin" and (told := _sysctl("machdep.cpu.brand_string")):
        return told
    return platform.processor() or platform.machine()


def _sysctl(name: str) -> str:
    return proc.run(proc.Command(argv=("sysctl", "-n", name), timeout_s=10)).stdout.strip()


def _ram_gib() -> float | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return round(int(line.split()[1]) / (1 << 20), 1)
    except (OSError, ValueError):
        pass
    if sys.platform == "darwin" and (told := _sysctl("hw.memsize")).isdecimal():
        return round(int(told) / (1 << 30), 1)
    return None
