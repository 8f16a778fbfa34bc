"""What a log proves about where and how a cell ran."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from turbobench import placement
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerRun, LayerTypes

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
        n_kv_layers=30,
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


GPU_PAIR = KVPair("turbo4", "turbo3")


def _gpu_log(*, splits: str = "2", buffer: str = "CUDA0", offloaded: int = 37, warning: str = "") -> list[str]:
    """Return the telling lines of a llama-bench with -ngl 99 on one GPU.

    Written after the formats in the pin's ggml-cuda.cu, llama-model.cpp, llama-kv-cache.cpp and llama-context.cpp,
    not captured.
    """
    return f"""\
ggml_cuda_init: found 1 CUDA devices (Total VRAM: 143167 MiB):
  Device 0: NVIDIA H200, compute capability 9.0, VMM: yes, VRAM: 143167 MiB
load_tensors: offloading output layer to GPU
load_tensors: offloading {offloaded - 1} repeating layers to GPU
load_tensors: offloaded {offloaded}/37 layers to GPU
load_tensors:        CUDA0 model buffer size =  4059.38 MiB
llama_context: constructing llama_context
llama_context: flash_attn            = enabled
llama_kv_cache: {buffer:>10} KV buffer size =  4320.00 MiB
llama_kv_cache: size = 4320.00 MiB (131072 cells,  36 layers,  1/1 seqs), K (turbo4): 2448.0 MiB, V (turbo3): 1872.0 MiB
llama_kv_cache: attn_rot_k = 1, n_embd_head_k_all = 128
llama_kv_cache: attn_rot_v = 1, n_embd_head_k_all = 128
sched_reserve:      CUDA0 compute buffer size =   304.75 MiB
sched_reserve: graph{" (pp bs=512, tg bs=1)" if "/" in splits else ""}: nodes = 1268, splits = {splits}
{warning}""".splitlines()


def _judged(log: list[str], backend: str = "cuda") -> placement.Verdict:
    return placement.judge(placement.observe(log)[-1], GPU_PAIR, backend=backend, head_dims=(128, 128))


def test_a_graph_that_stays_on_the_gpu_after_the_embedding_is_verified() -> None:
    (found,) = placement.observe(_gpu_log())
    assert (found.n_splits, found.n_kv_layers, found.offloaded) == (2, 36, (37, 37))
    assert found.devices == ("NVIDIA H200, compute capability 9.0",)
    assert _judged(_gpu_log()).placement == "verified"


def test_every_context_of_a_model_knows_how_the_model_was_loaded() -> None:
    log = _gpu_log()
    second = log[log.index("llama_context: constructing llama_context") :]
    assert [found.offloaded for found in placement.observe([*log, *second])] == [(37, 37)] * 2


@pytest.mark.parametrize(
    ("changes", "expected", "why"),
    [
        ({"splits": "74"}, "fallback", "attention ran on the CPU: 74 graph splits over 36 attention layers"),
        ({"splits": "2 / 74"}, "fallback", "attention ran on the CPU"),  # only when generating
        ({"splits": "4"}, "unverified", "some operations left the device"),
        ({"buffer": "CPU"}, "fallback", "K/V in CPU"),
        ({"buffer": "CUDA_Host"}, "fallback", "K/V in CUDA_Host"),
        ({"offloaded": 12}, "fallback", "12 of 37 layers"),
        (
            {"warning": "ggml_cuda_flash_attn_ext_vec: no FlashAttention vector kernel compiled for K/V types a-b"},
            "fallback",
            "converted to f16",
        ),
    ],
)
def test_what_left_the_gpu_is_said(changes: dict[str, object], expected: str, why: str) -> None:
    verdict = _judged(_gpu_log(**changes))  # type: ignore[arg-type]
    assert verdict.placement == expected
    assert why in verdict.reason


def test_layers_spread_over_two_gpus_need_one_more_split() -> None:
    log = _gpu_log(splits="3")
    log.insert(9, "llama_kv_cache:      CUDA1 KV buffer size =  2160.00 MiB")
    assert _judged(log).placement == "verified"


def test_a_log_that_does_not_show_the_layers_proves_nothing() -> None:
    log = [line for line in _gpu_log() if "offload" not in line]
    assert _judged(log).placement == "unverified"


def test_the_buffers_of_hip_have_a_name_of_their_own() -> None:
    assert _judged(_gpu_log(buffer="ROCm0"), backend="hip").placement == "verified"
    assert _judged(_gpu_log(), backend="hip").placement == "fallback"


def test_vulkan_names_its_devices_and_buffers_its_own_way() -> None:
    # the first line as lavapipe's run printed it, but for the device's name
    device = "NVIDIA H200 (NVIDIA) | uma: 0 | fp16: 1 | bf16: 0 | fp4: 0 | warp size: 32 | matrix cores: NV_coopmat2"
    log = [f"ggml_vulkan: 0 = {device}", *(line for line in _gpu_log(buffer="Vulkan0") if "Device 0" not in line)]
    assert placement.observe(filter(placement.is_fact, log))[0].devices == (device,)
    assert _judged(log, backend="vulkan").placement == "verified"
    assert _judged(_gpu_log(), backend="vulkan").placement == "fallback"


@pytest.mark.parametrize("buffer", ["MTL0", "MTL0_Private"])
def test_metal_names_its_devices_and_buffers_its_own_way(buffer: str) -> None:
    # the first line as ggml-metal-device.m would print it
    line = "ggml_metal_device_init: GPU name:   MTL0 (Apple M1 Pro)"
    log = [line, *(line for line in _gpu_log(buffer=buffer) if "Device 0" not in line)]
    assert placement.observe(filter(placement.is_fact, log))[0].devices == ("MTL0 (Apple M1 Pro)",)
    assert _judged(log, backend="metal").placement == "verified"
    assert _judged(_gpu_log(), backend="metal").placement == "fallback"


def test_every_line_that_is_observed_is_kept_as_a_fact() -> None:
    log = _gpu_log(warning="x: no FlashAttention vector kernel compiled for K/V types a-b")
    assert placement.observe(filter(placement.is_fact, log)) == placement.observe(log)


POLICY = KVPair.by_layer(
    LayerTypes("mine", "gemma3", 3, 64, (LayerRun(0, 1, 64, "f16", 64, "f16"), LayerRun(2, 2, 64, "turbo4", 64, "f16")))
)


def _policy_log(*, layers: str = "0:f16/f16 1:f16/f16") -> list[str]:
    """Return the telling lines of a model with two caches, as llama-bench -v printed them for a tiny Gemma 3."""
    return [
        "llama_context: constructing llama_context",
        "llama_context: flash_attn            = enabled",
        "llama_kv_cache: types by layer: 2:turbo4/f16",
        "llama_kv_cache:        CPU KV buffer size =     0.04 MiB",
        "llama_kv_cache: size =    0.04 MiB (   256 cells,   1 layers,  1/1 seqs), "
        "K (1*turbo4):    0.01 MiB, V (1*f16):    0.03 MiB",
        "llama_kv_cache: attn_rot_k = 1, n_embd_head_k_all = 64",
        "llama_kv_cache: attn_rot_v = 0, n_embd_head_k_all = 64",
        f"llama_kv_cache: types by layer: {layers}",
        "llama_kv_cache:        CPU KV buffer size =     0.06 MiB",
        "llama_kv_cache: size =    0.06 MiB (   256 cells,   2 layers,  1/1 seqs), "
        "K (2*f16):    0.03 MiB, V (2*f16):    0.03 MiB",
        "llama_kv_cache: attn_rot_k = 0, n_embd_head_k_all = 64",
        "llama_kv_cache: attn_rot_v = 0, n_embd_head_k_all = 64",
        "sched_reserve: graph nodes  = 100, splits = 1",
    ]


def test_a_policy_is_verified_by_the_types_of_every_layer() -> None:
    lines = [line for line in _policy_log() if placement.is_fact(line)]
    (observed,) = placement.observe(lines)
    assert observed.layer_types == "0:f16/f16 1:f16/f16 2:turbo4/f16"
    assert placement.judge(observed, POLICY, backend="cpu", head_dims=(64, 64)).placement == "verified"


def test_other_types_in_a_layer_are_a_fallback() -> None:
    (observed,) = placement.observe(_policy_log(layers="0:f16/f16 1:turbo4/f16"))
    verdict = placement.judge(observed, POLICY, backend="cpu", head_dims=(64, 64))
    assert (verdict.placement, "1:turbo4/f16" in verdict.reason) == ("fallback", True)


def test_a_policy_that_was_not_in_use_is_a_fallback_and_so_is_one_not_asked_for(
    bench: list[placement.Observed],
) -> None:
    assert "q8_0/q4_0 in all" in placement.judge(bench[0], POLICY, backend="cpu", head_dims=(64, 64)).reason
    (observed,) = placement.observe(_policy_log())
    verdict = placement.judge(observed, PAIR, backend="cpu", head_dims=(64, 64))
    assert verdict.placement == "fallback"
