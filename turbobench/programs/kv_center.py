"""llama-kv-center: its argv, its progress, and why it failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from turbobench.errors import CorpusError, MeasurementError, TurbobenchError

_PROGRESS = re.compile(r"measured (\d+) of (\d+) chunks")
_TOO_SHORT = re.compile(r"the text has (\d+) tokens, (\d+) are needed")
_ERROR = re.compile(r" E (?:\w+: )?(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CenterRequest:
    """What is measured: `chunks` pieces of text at positions 0 to `n_ctx`. `n_gpu_layers` None: a build without GPU."""

    n_ctx: int
    chunks: int
    n_threads: int | None = None
    n_gpu_layers: int | None = None


def argv(program: Path, model: Path, text: Path, out: Path, request: CenterRequest) -> list[str]:
    """Return the command line that writes the statistics of K to `out`."""
    return [
        str(program),
        *("-m", str(model), "-f", str(text), "-o", str(out)),
        *("-c", str(request.n_ctx), "--chunks", str(request.chunks)),
        *(() if request.n_threads is None else ("-t", str(request.n_threads))),
        *(() if request.n_gpu_layers is None else ("-ngl", str(request.n_gpu_layers))),
        *("-fit", "off"),
    ]


def chunks_done(line: str) -> int | None:
    """Return how many chunks a line of output says are measured, for progress."""
    found = _PROGRESS.search(line)
    return int(found[1]) if found else None


def failure(output: str) -> TurbobenchError:
    """Say why the program failed, from what it printed."""
    if short := _TOO_SHORT.search(output):
        return CorpusError(
            f"the text is too short: it gives {short[1]} tokens where {short[2]} are needed",
            "give a longer text with --text, or a smaller --n-ctx",
        )
    errors = _ERROR.findall(output)
    cause = errors[-1].strip() if errors else "it ended early"
    return MeasurementError(f"llama-kv-center failed: {cause}", "the log shows the whole run")
