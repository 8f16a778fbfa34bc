"""What a log proves about where and how a cell ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from turbobench import placement
from turbobench.kvtypes import KVPair

DATA = Path(__file__).parent / "data"
PAIR = KVPair("q8_0", "q4_0")


@pytest.fixture
def bench() -> list[placement.Observed]:
    return placement.observe((DATA / "llama-bench-q8_0-q4_0.stderr").read_text(encoding="utf-8").splitlines())


def test_each_context_of_a_log_is_observed(bench: list[placement.Observed]) -> None:
    assert len(bench) == 2
    assert bench[0] == placement.Observed(
        type_k="q8_0",
        type_v="q4_0",
        kv_mib=2.29,
        kv_cells=256,
        attn_rot_k=True,
        attn_rot_v=True,
        flash_attn=True,
        kv_buffers=("CPU",),
        n_splits=1,
    )


def test_the_log_of_perplexity_is_observed_too() -> None:
    (found,) = placement.observe((DATA / "perplexity-base.stderr").read_text(encoding="utf-8").splitlines())
    assert (found.type_k, found.type_v, found.kv_mib, found.attn_rot_k) == ("f16", "f16", 45.0, False)


def test_a_run_as_asked_is_verified(bench: list[placement.Observed]) -> None:
    assert placement.judge(bench[0], PAIR, backend="cpu", head_dims=(64, 64)).placement == "verified"


@pytest.mark.parametrize(
    ("change", "expected", "why"),
    [
        ({"type_v": "f16"}, "fallback", "q8_0/f16"),
        ({"flash_attn": False}, "fallback", "flash attention"),
        ({"kv_buffers": ("CPU", "CUDA0")}, "fallback", "CUDA0"),
        ({"n_splits": 61}, "fallback", "61 graph splits"),
        ({"attn_rot_k": False}, "unverified", "attn_rot"),
    ],
)
def test_anything_else_is_said(
    bench: list[placement.Observed], change: dict[str, object], expected: str, why: str
) -> None:
    verdict = placement.judge(replace(bench[0], **change), PAIR, backend="cpu", head_dims=(64, 64))  # type: ignore[arg-type]
    assert verdict.placement == expected
    assert why in verdict.reason


def test_no_rotation_is_expected_of_a_head_size_that_upstream_does_not_rotate(bench: list[placement.Observed]) -> None:
    plain = replace(bench[0], attn_rot_k=False, attn_rot_v=False)
    assert placement.judge(plain, PAIR, backend="cpu", head_dims=(80, 80)).placement == "verified"


def test_a_log_without_a_cache_proves_nothing() -> None:
    assert placement.observe(["nothing here"]) == []
    assert placement.judge(None, PAIR, backend="cpu", head_dims=(64, 64)).placement == "unverified"
