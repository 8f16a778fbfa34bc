"""A server with a turbo cache: slots can be saved and restored; the context is not shifted."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from turbobench import proc
from turbobench.build import Build

_PROMPT = "The first lighthouse on the coast was built of stone. Its keeper wrote in his diary every night:"


class _Server:
    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def post(self, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")  # noqa: S310
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 - our own server on loopback
            return dict(json.load(answer))

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def complete(self, slot: int, prompt: str, n: int) -> dict[str, Any]:
        return self.post(
            "/completion", prompt=prompt, n_predict=n, temperature=0, id_slot=slot, cache_prompt=True, ignore_eos=True
        )


@pytest.fixture(scope="module")
def server(cpu_build: Build, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    folder = tmp_path_factory.mktemp("slots")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        str(cpu_build.program("llama-server")),
        *("-m", str(model), "--host", "127.0.0.1", "--port", str(port)),
        *("-c", "512", "-np", "2", "-ctk", "turbo4", "-ctv", "turbo3", "-fa", "on"),
        *("--slot-save-path", str(folder), "--context-shift"),
    ]
    log = folder / "server.log"
    with log.open("wb") as handle:
        process = subprocess.Popen(argv, stdout=handle, stderr=handle, start_new_session=True)
        running = _Server(f"http://127.0.0.1:{port}", log)
        try:
            deadline = time.monotonic() + 60
            while not running.is_up():
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield running
        finally:
            proc.kill_group(process)


def test_a_restored_slot_goes_on_as_if_nothing_had_happened(server: _Server) -> None:
    first = server.complete(0, _PROMPT, 16)
    longer = _PROMPT + first["content"]
    saved = server.post("/slots/0?action=save", filename="turbo.bin")
    expected = server.complete(0, longer, 16)
    restored = server.post("/slots/1?action=restore", filename="turbo.bin")
    again = server.complete(1, longer, 16)
    assert restored["n_restored"] == saved["n_saved"] > 0
    assert again["content"] == expected["content"]
    assert again["tokens_evaluated"] - again["timings"]["prompt_n"] > 10, "the restored cache was not used"


def test_the_context_is_never_shifted(server: _Server) -> None:
    """Shifting would rotate rotated keys again: the server refuses it, and a full context ends the answer."""
    assert "KV cache shifting is not supported for this context" in server.log.read_text()
    ended = server.complete(0, _PROMPT, 400)
    assert ended["tokens_predicted"] < 400
    assert ended["truncated"] is True
