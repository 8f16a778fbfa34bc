"""llama-server for one client on this machine: argv, and its answers over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turbobench.errors import MeasurementError
from turbobench.kvtypes import KVPair

_HOST = "127.0.0.1"
_TIMEOUT_S = 3600.0  # a long prompt on a slow CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """What to serve: one slot of `n_ctx` tokens. `n_gpu_layers` None for a build without a GPU."""

    pair: KVPair
    n_ctx: int
    n_threads: int | None = None
    n_gpu_layers: int | None = None
    kv_center: Path | None = None
    kv_types: Path | None = None


def argv(program: Path, model: Path, request: ServerRequest) -> list[str]:
    """Return the command line without the port, which is chosen when it starts."""
    return [
        str(program),
        *("-m", str(model)),
        *("-c", str(request.n_ctx), "-np", "1", "--host", _HOST),
        *("-fa", "on"),
        *request.pair.argv(request.kv_center, request.kv_types),
        *(() if request.n_threads is None else ("-t", str(request.n_threads))),
        *(() if request.n_gpu_layers is None else ("-ngl", str(request.n_gpu_layers), "-fit", "off")),
        *("--no-webui", "-lv", "4"),
    ]


@dataclass(frozen=True, slots=True)
class Client:
    """Talks to the server at a port of this machine; MeasurementError for an answer that is none."""

    port: int

    def is_up(self) -> bool:
        """Return whether it answers and has loaded its model."""
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def n_tokens(self, text: str) -> int:
        """Return how many tokens the text has."""
        return len(self._post("/tokenize", content=text)["tokens"])

    def complete(self, prompt: str, *, n_predict: int) -> str:
        """Return the likeliest continuation, with nothing of an earlier prompt's cache."""
        body = self._post("/completion", prompt=prompt, n_predict=n_predict, temperature=0, cache_prompt=False)
        if body.get("truncated"):
            raise MeasurementError("llama-server cut the prompt off", "ask for a smaller n_ctx than the model's")
        return str(body["content"])

    def _post(self, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        url = f"http://{_HOST}:{self.port}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - ours, on loopback
                return dict(json.load(answer))
        except urllib.error.HTTPError as failure:
            said = failure.read().decode(errors="replace")[:300]
            what = f"llama-server answers {failure.code} to {path}: {said}"
        except (urllib.error.URLError, OSError, ValueError) as failure:
            what = f"llama-server gives no answer to {path}: {failure}"
        raise MeasurementError(what, "its log says why")
