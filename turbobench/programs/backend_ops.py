"""test-backend-ops: argv for one op on one device, and the cases that it says it compared with the CPU backend.

It ends with code 0 also where it ran nothing: an unknown device, a filter that fits no case, cases the device refuses.
So every case is counted, and its own count is compared with ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from turbobench.errors import MeasurementError

Ending = Literal["OK", "FAIL", "not supported"]

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_CASE = re.compile(
    r"(?P<said>.*?)  (?P<op>[A-Z][A-Z0-9_]+)\((?P<params>\S*=\S*)\): (?P<ending>OK|FAIL|not supported)(?P<rest>.*)"
)
_DEVICE = re.compile(r"^Backend \d+/\d+: (\S+)\s*$", re.MULTILINE)
_SKIPPED = re.compile(r"^Backend \d+/\d+: (\S+)\s*\n\s*Skipping", re.MULTILINE)
_SUMMARY = re.compile(r"^\s*(\d+)/(\d+) tests passed", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpRequest:
    """The cases of `op` whose parameters contain a match of `pattern`, on the device that ggml calls `device`."""

    op: str
    pattern: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCase:
    """One case: `params` as printed (`type_K=turbo4,…`), `said` what was printed about a failure."""

    op: str
    params: str
    ending: Ending
    said: str = ""

    def param(self, name: str) -> str | None:
        """Return a parameter that is one word, such as `hsk`; None where the case has none of that name."""
        found = re.search(rf"(?:^|,){name}=([^,\[]+)", self.params)
        return found[1] if found else None


def argv(program: Path, request: OpRequest) -> list[str]:
    """Return the command line; the pattern is an ECMAScript regular expression."""
    return [str(program), "test", "-b", request.device, "-o", request.op, "-p", request.pattern]


def parse_line(line: str) -> OpCase | None:
    """Read one line of output; None for one that tells of no case."""
    found = _CASE.fullmatch(_COLOUR.sub("", line).rstrip())
    if found is None:
        return None
    ending: Ending = "OK" if found["ending"] == "OK" else "FAIL" if found["ending"] == "FAIL" else "not supported"
    return OpCase(op=found["op"], params=found["params"], ending=ending, said=(found["said"] + found["rest"]).strip())


def parse(stdout: str, request: OpRequest) -> list[OpCase]:
    """Return every case of a run that ended by itself.

    Raises MeasurementError where nothing ran on the device asked for, no case was compared, or the program counts
    other cases than it printed.
    """
    text = _COLOUR.sub("", stdout)
    if request.device not in set(_DEVICE.findall(text)) - set(_SKIPPED.findall(text)):
        ran = ", ".join(_DEVICE.findall(text)) or "none"
        raise MeasurementError(
            f"test-backend-ops ran nothing on {request.device}; the devices that it found: {ran}", "its log says why"
        )
    cases = [case for line in text.splitlines() if (case := parse_line(line)) is not None]
    compared = [case for case in cases if case.ending != "not supported"]
    if not compared:
        refused = f", {len(cases)} are not supported" if cases else ""
        raise MeasurementError(
            f"test-backend-ops compared no case of {request.op} with {request.pattern!r} on {request.device}{refused}",
            "its log holds what it printed",
        )
    counted = _SUMMARY.findall(text)
    printed = (str(sum(case.ending == "OK" for case in compared)), str(len(compared)))
    if counted != [printed]:
        raise MeasurementError(
            f"test-backend-ops counts {counted} cases passed and compared, and printed {printed}",
            "its log holds what it printed",
        )
    return cases
