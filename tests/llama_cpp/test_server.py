"""A server with a turbo cache: slots can be saved and restored; the context is not shifted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.llama_cpp.servers import Server, running
from turbobench.build import Build

_PROMPT = "The first lighthouse on the coast was built of stone. Its keeper wrote in his diary every night:"


@pytest.fixture(scope="module")
def server(cpu_build: Build, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("slots")
    options = ("-c", "512", "-np", "2", "-ctk", "turbo4", "-ctv", "turbo3", "-fa", "on")
    with running(
        cpu_build, model, folder / "server.log", *options, "--slot-save-path", str(folder), "--context-shift"
    ) as started:
        yield started


def test_a_restored_slot_goes_on_as_if_nothing_had_happened(server: Server) -> None:
    first = server.complete(0, _PROMPT, 16)
    longer = _PROMPT + first["content"]
    saved = server.post("/slots/0?action=save", filename="turbo.bin")
    expected = server.complete(0, longer, 16)
    restored = server.post("/slots/1?action=restore", filename="turbo.bin")
    again = server.complete(1, longer, 16)
    assert restored["n_restored"] == saved["n_saved"] > 0
    assert again["content"] == expected["content"]
    assert again["tokens_evaluated"] - again["timings"]["prompt_n"] > 10, "the restored cache was not used"


def test_the_context_is_never_shifted(server: Server) -> None:
    """Shifting would rotate rotated keys again: the server refuses it, and a full context ends the answer."""
    assert "KV cache shifting is not supported for this context" in server.log.read_text()
    ended = server.complete(0, _PROMPT, 400)
    assert ended["tokens_predicted"] < 400
    assert ended["truncated"] is True
