"""Weights expanded to f16: once, whole, and only where there is something to expand."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_files import write_gguf
from turbobench.errors import DiskFullError, ModelError
from turbobench.model import ModelFacts, read_facts
from turbobench.proc import CommandError
from turbobench.weights import expand_to_f16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOBENCH_CACHE", str(tmp_path / "cache"))


def _quantized(tmp_path: Path) -> ModelFacts:
    return read_facts(write_gguf(tmp_path / "q4.gguf", file_type=3))


def _program(tmp_path: Path, script: str) -> Path:
    """Stand in for llama-quantize: called as `--allow-requantize IN OUT f16`."""
    path = tmp_path / "quantize"
    path.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
    path.chmod(0o755)
    return path


def _leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.suffix != ".lock"]


def test_the_expanded_file_is_made_once(tmp_path: Path) -> None:
    facts = _quantized(tmp_path)
    program = _program(tmp_path, 'echo "[   1/   2] blk" && [ "$1 $4" = "--allow-requantize f16" ] && cp "$2" "$3"')
    first = expand_to_f16(facts, program)
    assert expand_to_f16(facts, program) == first
    assert first.read_bytes() == facts.path.read_bytes()
    assert (tmp_path / "runs").read_text().count("run") == 1


def test_another_model_gets_a_file_of_its_own(tmp_path: Path) -> None:
    facts = _quantized(tmp_path)
    program = _program(tmp_path, 'cp "$2" "$3"')
    assert expand_to_f16(facts, program) != expand_to_f16(replace(facts, sha256="0" * 64), program)


def test_full_precision_weights_are_left_alone(tmp_path: Path) -> None:
    facts = read_facts(write_gguf(tmp_path / "f16.gguf", file_type=1))
    assert expand_to_f16(facts, tmp_path / "no-such-program") == facts.path


def test_a_failing_program_leaves_no_file(tmp_path: Path) -> None:
    program = _program(tmp_path, 'echo half > "$3"; echo "bad tensor" >&2; exit 3')
    with pytest.raises(CommandError, match="exit code 3") as caught:
        expand_to_f16(_quantized(tmp_path), program)
    assert "bad tensor" in caught.value.what
    assert _leftovers(tmp_path) == []


def test_a_program_that_ends_well_but_writes_half_a_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="truncated"):
        expand_to_f16(_quantized(tmp_path), _program(tmp_path, 'head -c 3000 "$2" > "$3"'))
    assert _leftovers(tmp_path) == []


def test_too_little_space_is_told_with_figures_before_anything_is_written(tmp_path: Path) -> None:
    facts = replace(_quantized(tmp_path), n_params=10**15)
    with pytest.raises(DiskFullError, match=r"needs 1907348697 MiB in .*, where \d+ MiB are free"):
        expand_to_f16(facts, _program(tmp_path, "exit 0"))
    assert not (tmp_path / "runs").exists()
