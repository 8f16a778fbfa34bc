"""Needles: the prompts, the scoring, the paired test, and the client that asks."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from turbobench import niah, niah_client, proc
from turbobench.errors import MeasurementError
from turbobench.niah import Trial, compare, is_right, prompt, trials
from turbobench.programs.server import Client
from turbobench.stats import mcnemar

PARAGRAPHS = [(f"Paragraph {i} of a text about nothing.", 10) for i in range(100)]
FACT = re.compile(r"The number recorded for (\w+) is (\d{5})\.")


def made(position: float = 0.5, seed: int = 0, keys: int = 1, n_tokens: int = 500) -> niah.Prompt:
    return prompt(Trial(position=position, seed=seed, keys=keys), PARAGRAPHS, n_tokens=n_tokens)


def test_every_position_has_every_seed() -> None:
    found = [trial.id for trial in trials((0.1, 0.9), seeds=2, keys=4)]
    assert found == ["p0.1-s0-k4", "p0.1-s1-k4", "p0.9-s0-k4", "p0.9-s1-k4"]


def test_the_fact_stands_once_at_its_position_and_the_question_at_the_end() -> None:
    for position, line in ((0.0, 0), (0.5, 25), (1.0, 50)):
        text, answer = made(position).text, made(position).answer
        lines = text.splitlines()
        facts = [index for index, content in enumerate(lines) if FACT.match(content)]
        assert facts == [line]
        assert answer in lines[line]
        place = FACT.match(lines[line])[1]  # type: ignore[index]
        assert lines[-1] == f"The number recorded for {place} is"
        assert text.count(answer) == 1


def test_the_haystack_is_whole_paragraphs_of_the_length_asked_for() -> None:
    chosen = [line for line in made(n_tokens=500).text.splitlines() if line.startswith("Paragraph")]
    assert len(chosen) == len(set(chosen)) == 50
    with pytest.raises(ValueError, match="fewer than 2000 tokens"):
        made(n_tokens=2000)


def test_distractors_have_the_same_form_other_places_and_other_numbers() -> None:
    several = made(keys=4)
    facts = FACT.findall(several.text)
    assert len({place for place, _ in facts}) == len({number for _, number in facts}) == 4
    asked = several.text.splitlines()[-1].split()[-2]
    assert dict(facts)[asked] == several.answer


def test_positions_share_all_but_the_place_of_the_fact_and_seeds_share_nothing() -> None:
    near, far, other = made(0.1, keys=4), made(0.9, keys=4), made(0.1, seed=1, keys=4)
    assert near.answer == far.answer != other.answer
    assert near.text != far.text
    assert sorted(near.text.splitlines()) == sorted(far.text.splitlines())


def test_a_prompt_is_the_same_in_every_process() -> None:
    assert made().answer == "35271"  # written down: what f16 was asked must be what turbo is asked later


@pytest.mark.parametrize(
    ("said", "right"),
    [
        (" 48213.", True),
        (" 48,213 in all", True),
        (": **48213**", True),
        (" 4821", False),
        (" 148213", False),
        (" 11111, not 48213", False),
        ("", False),
    ],
)
def test_the_first_number_counts(said: str, right: bool) -> None:
    assert is_right("48213", said) is right


@pytest.mark.parametrize(
    ("lost", "won", "p"), [(0, 0, 1.0), (5, 5, 1.0), (1, 0, 1.0), (6, 0, 0.03125), (0, 6, 0.03125), (9, 1, 0.021484375)]
)
def test_mcnemar_is_exact(lost: int, won: int, p: float) -> None:
    assert mcnemar(lost, won) == pytest.approx(p)


def paired(lost: int, won: int, both: int, neither: int) -> niah.Paired:
    outcomes = [(True, False)] * lost + [(False, True)] * won + [(True, True)] * both + [(False, False)] * neither
    reference = {str(i): outcome[0] for i, outcome in enumerate(outcomes)}
    found = {str(i): outcome[1] for i, outcome in enumerate(outcomes)}
    result = compare(found, reference)
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((8, 0, 10, 2), "worse than f16"),
        ((0, 8, 10, 2), "better than f16"),
        ((3, 1, 14, 2), "no difference shown"),
        ((3, 9, 0, 8), "model too weak to tell"),
        ((4, 0, 0, 16), "no difference shown"),  # f16 at exactly 20 %
    ],
)
def test_the_verdict_needs_a_reference_that_finds_something(counts: tuple[int, int, int, int], verdict: str) -> None:
    lost, won, both, neither = counts
    found = paired(lost, won, both, neither)
    assert (found.lost, found.won, found.reference, found.found) == (lost, won, lost + both, won + both)
    assert found.verdict == verdict


def test_only_prompts_that_both_answered_are_compared() -> None:
    assert compare({"a": True, "b": True}, {"b": False, "c": True}) == niah.Paired(
        n=1, found=1, reference=0, lost=0, won=1, p=1.0
    )
    assert compare({"a": True}, {}) is None


def test_every_prompt_needs_one_result() -> None:
    expected = trials((0.5,), seeds=2, keys=1)
    lines = "said p0.5-s0-k1 ' 5'\nneedle p0.5-s0-k1 1\nneedle p0.5-s1-k1 0\n"
    assert niah_client.parse(lines, expected) == {"p0.5-s0-k1": True, "p0.5-s1-k1": False}
    with pytest.raises(MeasurementError, match="1 of 2 prompts were not answered"):
        niah_client.parse("needle p0.5-s0-k1 1\n", expected)


class _Reader(BaseHTTPRequestHandler):
    """A server that reads: it answers with the number recorded for the place asked for, except for one place."""

    forgets = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._answer({"tokens": body["content"].split()})
            return
        assert body["temperature"] == 0
        place = body["prompt"].splitlines()[-1].split()[-2]
        number = dict(FACT.findall(body["prompt"]))[place]
        self._answer({"content": f" {'00000' if place == self.forgets else number}.", "truncated": False})

    def _answer(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Reader)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_client_asks_every_prompt_and_scores_what_is_said(port: int, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Some words of paragraph {i} here." for i in range(200)))
    job = niah_client.Job(server=(), text=str(text), n_tokens=400, positions=(0.1, 0.9), seeds=3, keys=2)
    results = list(niah_client.ask(job, Client(port)))
    assert [trial for trial, _, _ in results] == trials((0.1, 0.9), seeds=3, keys=2)
    assert all(right for _, _, right in results)


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(MeasurementError, match="gives no answer to /tokenize"):
        Client(1).n_tokens("x")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_the_server_ends_with_the_client_that_is_ended(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 300\n"
    )
    server.chmod(0o755)
    job = niah_client.Job(server=(str(server),), text="t", n_tokens=256, positions=(0.5,), seeds=1, keys=1)

    timeout_s = 0.5
    while not (tmp_path / "pid").exists():  # a slow machine may need longer to get that far
        assert proc.run(proc.Command(argv=niah_client.argv(job), timeout_s=timeout_s)).timed_out
        timeout_s *= 2
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_does_not_start_is_said_at_once(tmp_path: Path) -> None:
    job = niah_client.Job(server=(str(tmp_path / "none"),), text="t", n_tokens=256, positions=(0.5,), seeds=1, keys=1)
    ended = proc.run(proc.Command(argv=niah_client.argv(job), timeout_s=60))
    assert ended.returncode == MeasurementError.exit_code
    assert "error: llama-server does not start" in ended.tail
