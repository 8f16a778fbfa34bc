"""Asks one llama-server all needle prompts of a cell; run as a process of its own, which the runner starts.

`python -m turbobench.niah_client JOB`, JOB a JSON object of `Job`'s fields, prints for each prompt a line `needle ID 1`
or `needle ID 0`; the server's log goes to stderr as it comes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from turbobench import niah, proc
from turbobench.errors import MeasurementError, TurbobenchError
from turbobench.programs.server import Client

_ANSWER_TOKENS = 10
_RESERVED_TOKENS = 64  # for the facts' surroundings, the question and the answer
_FACT_TOKENS = 20
_START_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to ask: prompts of about `n_tokens` from the file `text`. `server` is the command line without the port."""

    server: tuple[str, ...]
    text: str
    n_tokens: int
    positions: tuple[float, ...]
    seeds: int
    keys: int


def argv(job: Job) -> list[str]:
    """Return the command line that asks all prompts of `job`."""
    return [sys.executable, "-m", "turbobench.niah_client", json.dumps(asdict(job))]


def parse(stdout: str, expected: list[niah.Trial]) -> dict[str, bool]:
    """Read which needles were found; MeasurementError unless each trial has exactly one result."""
    found: dict[str, bool] = {}
    for line in stdout.splitlines():
        if line.startswith("needle "):
            _, name, right = line.split()
            found[name] = right == "1"
    missing = [trial.id for trial in expected if trial.id not in found]
    if missing or len(found) != len(expected):
        raise MeasurementError(f"{len(missing)} of {len(expected)} prompts were not answered", "the log says why")
    return found


def ask(job: Job, client: Client) -> Iterator[tuple[niah.Trial, str, bool]]:
    """Yield each trial, what the model said, and whether it is right."""
    lines = [line.strip() for line in Path(job.text).read_text(encoding="utf-8").splitlines()]
    # Enough of the text for every seed's own stretch, and no more: counting its tokens takes time.
    stretch, texts = 0, list[str]()
    for line in lines:
        if line:
            texts.append(line)
            stretch += len(line)
        if stretch > 40 * job.n_tokens:
            break
    paragraphs = [(text, client.n_tokens(text) + 1) for text in texts]
    room = job.n_tokens - _RESERVED_TOKENS - _FACT_TOKENS * job.keys
    for trial in niah.trials(job.positions, seeds=job.seeds, keys=job.keys):
        prompt = niah.prompt(trial, paragraphs, n_tokens=room)
        said = client.complete(prompt.text, n_predict=_ANSWER_TOKENS)
        yield trial, said, niah.is_right(prompt.answer, said)


@contextlib.contextmanager
def _serving(command: tuple[str, ...]) -> Iterator[Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = Client(port)
    started = proc.Command(argv=[*command, "--port", str(port)])
    # In the group of this process, which the runner ends as a whole.
    with proc.beside(started, _log, stderr=True, own_group=False) as has_ended:
        deadline = time.monotonic() + _START_S
        while not client.is_up():
            if has_ended() or time.monotonic() > deadline:
                raise MeasurementError("llama-server does not start", "its output above says why")
            time.sleep(0.2)
        yield client


def _log(line: str) -> None:
    sys.stderr.write(line)


def _main() -> None:
    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, "server": tuple(fields["server"]), "positions": tuple(fields["positions"])})
    try:
        with _serving(job.server) as client:
            for trial, said, right in ask(job, client):
                sys.stdout.write(f"said {trial.id} {said!r}\nneedle {trial.id} {int(right)}\n")
                sys.stdout.flush()
    except TurbobenchError as failure:
        sys.stderr.write(f"error: {failure.what}\n")
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    _main()
