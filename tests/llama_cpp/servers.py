"""A llama-server of the build under test, on a port of its own, as long as a test needs it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from turbobench import proc
from turbobench.build import Build


class Server:
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


@contextlib.contextmanager
def running(build: Build, model: Path, log: Path, *options: str) -> Iterator[Server]:
    """Yield a server that answers; its output goes to `log`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        str(build.program("llama-server")),
        *("-m", str(model), "--host", "127.0.0.1", "--port", str(port), *options),
    ]
    with log.open("wb") as handle:
        process = subprocess.Popen(argv, stdout=handle, stderr=handle, start_new_session=True)
        server = Server(f"http://127.0.0.1:{port}", log)
        try:
            deadline = time.monotonic() + 60
            while not server.is_up():
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield server
        finally:
            proc.kill_group(process)
