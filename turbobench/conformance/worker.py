"""Runs cases in a process of its own, since a wrong instruction or an assertion in native code ends the caller.

`python -m turbobench.conformance.worker BIN_DIR BACKEND` reads ids of cases from stdin, one a line. It prints JSON
lines: first `{"device": …, "description": …}`, then for each case `{"start": id}` and the fields of its finding.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from turbobench.conformance.cases import all_cases, run_case
from turbobench.errors import TurbobenchError
from turbobench.ggml import Device, usable_threads
from turbobench.machine import usable_cores


def argv(bin_dir: Path, backend: str) -> list[str]:
    return [sys.executable, "-m", "turbobench.conformance.worker", str(bin_dir), backend]


def _say(fields: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def _main() -> None:
    bin_dir, backend = Path(sys.argv[1]), sys.argv[2]
    cases = {case.id: case for case in all_cases()}
    try:
        device = Device(bin_dir, backend, n_threads=usable_threads(usable_cores()))
    except TurbobenchError as failure:
        _say({"error": failure.what, "hint": failure.hint, "exit_code": failure.exit_code})
        sys.exit(failure.exit_code)
    _say({"device": device.name.name, "description": device.name.description})
    for line in sys.stdin.read().splitlines():
        _say({"start": line})
        _say(asdict(run_case(cases[line], device, backend)))


if __name__ == "__main__":
    _main()
