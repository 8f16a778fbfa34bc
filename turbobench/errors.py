"""The error tree: every failure a user can meet, each class with an exit code of its own.

An error says what happened to which thing, and what to do next. Raise once; `cli.main` prints once.
Codes 0-2 belong to success, bugs and command-line usage; 130 to Ctrl-C.
"""

from __future__ import annotations

from typing import ClassVar


class TurbobenchError(Exception):
    """A failure with a reason (`what`, naming the thing) and a next step (`hint`)."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


class ConfigError(TurbobenchError):
    """A YAML file or an option value is not valid: unknown key, type, backend, or a bad value."""

    exit_code = 10


class SourceError(TurbobenchError):
    """The pinned source could not be had, or its tree id is not the pinned one."""

    exit_code = 11


class StackError(TurbobenchError):
    """A patch or kernel file does not fit the tree."""

    exit_code = 12


class ToolchainError(TurbobenchError):
    """A compiler or build tool is missing or too old."""

    exit_code = 13


class BuildError(TurbobenchError):
    """Configuring, compiling or smoke-testing a build failed."""

    exit_code = 14


class ModelError(TurbobenchError):
    """A model file is missing, truncated, not GGUF, or cannot be served with the cache types asked for."""

    exit_code = 15


class CorpusError(TurbobenchError):
    """A text is missing, empty, too short, or not the pinned one."""

    exit_code = 16


class MeasurementError(TurbobenchError):
    """A measuring program failed or printed something that is not a measurement."""

    exit_code = 17


class StoreError(TurbobenchError):
    """A result set cannot be read or written."""

    exit_code = 18


class DiskFullError(TurbobenchError):
    """There is not enough disk space."""

    exit_code = 19


class FetchError(TurbobenchError):
    """A download failed or its hash is not the pinned one."""

    exit_code = 20


class SweepIncompleteError(TurbobenchError):
    """A sweep ended with failed cells; all finished ones are stored."""

    exit_code = 21


class AccessError(TurbobenchError):
    """A file or folder that must be read or written cannot be."""

    exit_code = 23


class MemoryShortError(TurbobenchError):
    """There is not enough memory for what is to be measured."""

    exit_code = 24


class QualityGateError(TurbobenchError):
    """What was measured shows a fault: a decode path that differs from the prompt's, or a type that was not in use."""

    exit_code = 25


class ConformanceError(TurbobenchError):
    """A backend does not do what is promised of it: a wrong value, a crash, a refusal, or a check that never ran."""

    exit_code = 26


class DeviceMissingError(TurbobenchError):
    """What was asked for needs a device that is not here."""

    exit_code = 27


class Interrupted(TurbobenchError):  # noqa: N818 - it is the user's wish, not an error
    """Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = 130
