"""A GPU as a build and a report name it, which of them a program sees, and the most memory it took there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. `arch` is what its compiler calls it (`90`, `gfx1100`, nothing for Vulkan); `uuid` stays out of records.

    `memory_mib` is None and `driver` empty where the system does not say.
    """

    name: str
    arch: str
    memory_mib: int | None
    driver: str
    uuid: str

    @property
    def label(self) -> str:
        memory = "" if self.memory_mib is None else f"{self.memory_mib / 1024:.0f} GiB"
        facts = ", ".join(part for part in (self.arch, memory) if part)
        return f"{self.name} ({facts})" if facts else self.name


@dataclass(slots=True)
class PeakMemory:
    """The most memory in use, as samples come in: MiB for each GPU, above what was in use before."""

    before: dict[str, float]
    _peaks: dict[str, float] = field(default_factory=dict)

    def take(self, uuid: str, used_mib: float) -> None:
        if uuid in self.before:
            self._peaks[uuid] = max(self._peaks.get(uuid, 0.0), used_mib - self.before[uuid])

    @property
    def mib(self) -> float | None:
        """Return the sum over the GPUs, or None if nothing was sampled."""
        return sum(self._peaks.values()) if self._peaks else None


def archs(gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Return the architectures to compile for, each once."""
    return tuple(dict.fromkeys(gpu.arch for gpu in gpus if gpu.arch))


def visible(gpus: Sequence[Gpu], chosen: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES leaves, in its order; None leaves all.

    Indices and the beginnings of UUIDs are read as the driver does: the first that fits nothing ends the list.
    """
    if chosen is None:
        return tuple(gpus)
    found: list[Gpu] = []
    for item in (part.strip() for part in chosen.split(",")):
        if item.isdecimal() and int(item) < len(gpus):
            found.append(gpus[int(item)])
            continue
        named = [gpu for gpu in gpus if item and gpu.uuid.startswith(item)]
        if len(named) != 1:
            break
        found.append(named[0])
    return tuple(found)
