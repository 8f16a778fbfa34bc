"""The backends: modules behind one Protocol, and the dict that names them."""

from __future__ import annotations

import difflib
from typing import Protocol, cast

from turbobench.backends import cpu
from turbobench.errors import ConfigError
from turbobench.proc import Completed
from turbobench.toolchain import Compiler


class Backend(Protocol):
    """What a backend's module has."""

    def unavailable(self) -> str | None:
        """Say why this machine cannot build or run it; None if it can."""

    def cmake_flags(self, compiler: Compiler) -> tuple[str, ...]:
        """Return the flags that select it and suit this machine; may compile and run a small probe, once."""

    def notes(self, compiler: Compiler) -> tuple[str, ...]:
        """Return what a reader of results must know about how it is built here."""

    def devices(self) -> tuple[str, ...]:
        """Name the devices that it would compute on."""

    def remedy(self, crash: Completed, compiler: Compiler) -> str | None:
        """After a crash of the smoke test, change what `cmake_flags` says and tell how; None if nothing can be done."""


BACKENDS: dict[str, Backend] = {"cpu": cast("Backend", cpu)}


def get(name: str) -> Backend:
    """Return a backend; ConfigError with a suggestion for an unknown one."""
    if name in BACKENDS:
        return BACKENDS[name]
    near = difflib.get_close_matches(name, BACKENDS, n=1)
    raise ConfigError(
        f"unknown backend {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        f"known backends: {', '.join(BACKENDS)}",
    )
