"""What turbo cannot serve is refused when the context is created, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llama_cpp import tiny_models
from turbobench import proc
from turbobench.build import Build
from turbobench.kvtypes import KVPair
from turbobench.programs import llama_bench


def _bench(build: Build, model: Path, pair: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    request = llama_bench.BenchRequest(pair=KVPair.parse(pair), n_depth=0, n_prompt=8, n_gen=2, repetitions=1)
    lines: list[str] = []
    command = proc.Command(argv=llama_bench.argv(build.program("llama-bench"), model, request), env=env, timeout_s=120)
    ended = proc.run(command, on_line=lines.append)
    return ended.returncode, "\n".join(lines)


def test_a_head_size_of_64_is_served(cpu_build: Build, tmp_path: Path) -> None:
    code, output = _bench(cpu_build, tiny_models.llama(tmp_path / "m.gguf", head_dim=64), "turbo4/turbo3")
    assert code == 0, output[-2000:]


@pytest.mark.parametrize("pair", ["turbo4", "q8_0/turbo3", "turbo3/q8_0", "f16/turbo3t"])
def test_a_cache_that_is_not_rotated_is_refused(cpu_build: Build, tmp_path: Path, pair: str) -> None:
    model = tiny_models.llama(tmp_path / "m.gguf", head_dim=64)
    code, output = _bench(cpu_build, model, pair, env={"LLAMA_ATTN_ROT_DISABLE": "1"})
    assert code != 0
    assert "the attention rotation is not active" in output


@pytest.mark.parametrize("head_dim", [80, 96])
def test_a_head_size_that_blocks_do_not_divide_is_refused(cpu_build: Build, tmp_path: Path, head_dim: int) -> None:
    code, output = _bench(cpu_build, tiny_models.llama(tmp_path / "m.gguf", head_dim=head_dim), "turbo4")
    assert code != 0
    assert f"K cache type turbo4 with block size 64 does not divide n_embd_head_k={head_dim}" in output


def test_latent_attention_is_refused(cpu_build: Build, tmp_path: Path) -> None:
    model = tiny_models.deepseek2(tmp_path / "m.gguf")
    served, _ = _bench(cpu_build, model, "q8_0")
    refused, output = _bench(cpu_build, model, "turbo4")
    assert served == 0
    assert refused != 0
    assert "multi-head latent attention (MLA)" in output
