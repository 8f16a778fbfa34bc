"""What the smoke test makes of where attention ran; that it runs at all is tested with the real build."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench import smoke
from turbobench.errors import BuildError, FetchError
from turbobench.gguf_header import read_header
from turbobench.kvtypes import KVPair
from turbobench.placement import Verdict

FALLBACK = Verdict(placement="fallback", reason="attention ran on the CPU")


@pytest.mark.parametrize("name", ["f16", "turbo4", "turbo3"])
def test_a_gpu_build_whose_attention_runs_on_the_cpu_is_none(name: str) -> None:
    with pytest.raises(BuildError, match=f"{name}: attention ran on the CPU"):
        smoke._check_placement(name, FALLBACK, "cuda")


def test_a_type_that_upstream_has_no_kernel_for_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    smoke._check_placement("iq4_nl", FALLBACK, "cuda")
    assert "iq4_nl" in capsys.readouterr().err


@pytest.mark.parametrize(("backend", "has_it"), [("cpu", True), ("cuda", False)])
def test_only_the_types_of_the_backend_are_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: str, has_it: bool
) -> None:
    tried: list[str] = []

    def decode(_: object, pair: KVPair) -> Verdict:
        tried.append(pair.type_k)
        return Verdict(placement="verified", reason="")

    monkeypatch.setattr(smoke, "_model", lambda: tmp_path)
    monkeypatch.setattr(smoke, "_decode", decode)
    monkeypatch.setattr(smoke, "_evaluate", lambda *_: None)
    smoke.smoke(tmp_path, backend=backend)
    assert ("turbo3t" in tried) is has_it
    assert {"f16", "turbo3", "turbo4"} <= set(tried)


def test_without_a_network_a_model_of_random_weights_is_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(_: object) -> Path:
        raise FetchError("the package index cannot be reached", "connect")

    monkeypatch.setattr(smoke, "resolve_model", unreachable)
    assert read_header(smoke._model()).metadata["turbobench.synthetic"]
    assert "random weights" in capsys.readouterr().err
