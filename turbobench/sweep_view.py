"""How a running sweep looks: names of jobs, a bar, and a countdown from the fitted cost model."""

from __future__ import annotations

import time
from typing import assert_never

from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from turbobench import console
from turbobench.config import SweepSpec
from turbobench.eta import EtaModel, JobKind, Work
from turbobench.matrix import Job
from turbobench.programs.perplexity import chunk_of


def label(job: Job) -> str:
    """Name a job for people and for --only: `speed q8_0/turbo4 d4096 r0`, `quality turbo4/turbo4 c2048`, `nmse turbo4`.

    A needle job is `niah turbo4/turbo4 c2048 k4`, by the length of its prompts and their keys. A quality job's path and
    weights are named where they are not the common ones: `… c2048 decode`, `… c2048 as-is`.
    """
    cell = job.cells[0]
    match cell.kind:
        case "speed":
            return f"speed {cell.pair} d{cell.n_depth} r{job.round}"
        case "quality" | "floor":
            path = " decode" if cell.path == "decode" else ""
            weights = " as-is" if cell.params["weights"] == "as-is" else ""
            return f"{cell.kind} {cell.pair} c{cell.n_ctx}{path}{weights}"
        case "niah":
            return f"niah {cell.pair} c{cell.n_ctx} k{cell.params['keys']}"
        case "nmse":
            return f"nmse {cell.pair.type_k}"
        case _:
            assert_never(cell.kind)


def works_of(job: Job, spec: SweepSpec) -> list[Work]:
    """Return what a job evaluates, for the ETA."""
    cell = job.cells[0]
    if cell.kind == "nmse":
        return [Work.of("nmse", [])]
    if cell.kind == "niah":
        trials = len(str(cell.params["positions"]).split()) * int(cell.params["seeds"])
        return [Work.of("quality-prefill", [(0, cell.n_ctx or 0)] * trials)]
    if cell.kind != "speed":
        kind: JobKind = "quality-decode" if cell.path == "decode" else "quality-prefill"
        return [Work.of(kind, [(0, cell.n_ctx or 0)] * (cell.chunks or 0))]
    if spec.speed is None:
        raise ValueError("a speed job belongs to a spec with a speed section")
    depth, speed = cell.n_depth or 0, spec.speed
    # The warm-up evaluates pp at depth 0; the depth is prefilled once and restored from memory afterwards.
    prefill = [(0, speed.pp), (0, depth), *[(depth, speed.pp)] * speed.repetitions]
    return [
        Work.of("speed-prefill", prefill),
        Work.of("speed-decode", [(depth, speed.tg)] * speed.repetitions),
    ]


class EtaColumn(ProgressColumn):
    """Counts down to the time at which the fitted model expects the sweep to end."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        ends_at = task.fields.get("ends_at")
        if ends_at is None:
            return Text("")
        return Text(f"ETA {duration(max(0.0, ends_at - time.monotonic()))}", style="cyan")


def duration(seconds: float) -> str:
    """Render seconds the way a person says them: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class SweepView:
    """Keeps the progress display in step with the jobs."""

    def __init__(self, display: Progress, todo: list[Job], spec: SweepSpec, eta: EtaModel) -> None:
        self._display, self._todo, self._spec, self._eta = display, todo, spec, eta
        self._task = display.add_task("", total=len(todo), ends_at=None)
        self._label = ""

    def begin(self, index: int) -> None:
        self._label = label(self._todo[index])
        left_s = sum(self._eta.predict(works_of(job, self._spec)) for job in self._todo[index:])
        self._display.update(self._task, description=self._label, ends_at=time.monotonic() + left_s)
        if not console.err.is_terminal:  # a log of a CI run has no bar; one line a job keeps it alive
            console.step(f"[{index + 1}/{len(self._todo)}] {self._label} (ETA {duration(left_s)})")

    def line(self, text: str) -> None:
        chunk = chunk_of(text)
        if chunk is not None:
            self._display.update(self._task, description=f"{self._label}, chunk {chunk}")

    def end(self, index: int) -> None:
        self._display.update(self._task, completed=index + 1)
