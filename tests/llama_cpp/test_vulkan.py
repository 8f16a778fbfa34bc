"""The Vulkan backend's turbo3 and turbo4 on lavapipe: the reference's bytes and floats, ggml's own tests, no complaint.

Each case of attention compiles shaders for its types and sizes, which takes lavapipe seconds. So decode runs every pair
with a turbo type at one head size, and one pair runs the other sizes and paths.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.llama_cpp import lavapipe, tiny_models
from tests.llama_cpp.lavapipe import Lavapipe
from turbobench import stack
from turbobench.backends import vulkan as backend
from turbobench.build import Build
from turbobench.codec.block import dequantize, quantize
from turbobench.codec.golden import extreme_blocks, random_blocks
from turbobench.codec.tables import CODEC_NAMES, CodecName, codec
from turbobench.source import fetch, load_pin
from turbobench.synth import SMOKE_SHAPE, write_model

_ROWS = Path(__file__).parents[1] / "native" / "device_rows.cpp"
_ANY = "(f16|q8_0|q5_0|q4_0|turbo4|turbo3)"
_MIXED = "type_K=turbo4,type_V=turbo3,"
_NAMES = {"GGML_VK_PERF_LOGGER": "1"}  # print the launches


@pytest.fixture(scope="session")
def vulkan(cpu_build: Build) -> Lavapipe:
    return lavapipe.build(stack.apply(fetch(load_pin())), lavapipe.tools())


def test_a_build_takes_these_tools(vulkan: Lavapipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VULKAN_SDK", str(vulkan.tools.sdk))
    assert backend.unavailable() is None
    found = backend.device_compiler()
    assert found is not None
    assert f"-DVulkan_GLSLC_EXECUTABLE={vulkan.tools.sdk / 'bin' / 'glslc'}" in found.cmake_flags


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_a_cache_holds_the_bytes_and_gives_the_floats_of_the_reference(
    vulkan: Lavapipe, cpu_build: Build, name: CodecName, tmp_path: Path
) -> None:
    x = np.concatenate([random_blocks(5000, seed=7), extreme_blocks()])
    x = x[: len(x) // 4 * 4]
    program = lavapipe.compile_program(_ROWS, cpu_build, tmp_path / "device_rows")
    (tmp_path / "in").write_bytes(x.tobytes())
    ended, output = vulkan.run(program, "Vulkan0", name, str(tmp_path / "in"), str(tmp_path / "out"))
    assert ended.ok, output[-2000:]
    _check_silent(output)
    blocks, floats = _parts((tmp_path / "out").read_bytes(), len(x), codec(name).block_bytes)
    ours = quantize(codec(name), x)
    by_set_rows = blocks[0].reshape(len(x) // 4, -1)[::-1].reshape(ours.shape)
    np.testing.assert_array_equal(by_set_rows, ours)
    np.testing.assert_array_equal(blocks[1], ours)
    for made in floats:
        np.testing.assert_array_equal(made, dequantize(codec(name), ours).view(np.uint32))


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("name", CODEC_NAMES)
def test_set_rows_rotates_what_it_stores(
    vulkan: Lavapipe, cpu_build: Build, name: CodecName, width: int, tmp_path: Path
) -> None:
    """Of whole numbers, sums are exact in any order. Only where the scale is none do a few roundings show."""
    x = np.random.default_rng(width).integers(-99, 99, (4 * 400, 64)).astype(np.float32)
    program = lavapipe.compile_program(_ROWS, cpu_build, tmp_path / "device_rows")
    (tmp_path / "in").write_bytes(x.tobytes())
    arguments = ("Vulkan0", name, str(tmp_path / "in"), str(tmp_path / "out"), str(width))
    ended, output = vulkan.run(program, *arguments, env=_NAMES)
    assert ended.ok, output[-2000:]
    _check_silent(output)
    _check_launches(output, {"ROTATED MUL_MAT"})
    blocks = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(400, -1)[::-1].reshape(len(x), -1)
    signs = np.array([[(i & j).bit_count() % 2 for j in range(width)] for i in range(width)])
    turned = (x.reshape(-1, width).astype(np.float64) @ (1 - 2 * signs) / np.sqrt(width)).reshape(x.shape)
    same = (blocks == quantize(codec(name), turned.astype(np.float32))).all(axis=1)
    assert same.mean() > (0.98 if width == 128 else 0.9999)


@pytest.mark.parametrize("op", ["SET_ROWS", "CPY", "GET_ROWS"])
def test_cache_ops_equal_the_cpu(vulkan: Lavapipe, cpu_build: Build, op: str) -> None:
    _check_ops(vulkan, cpu_build, op, "type_.*=turbo[34],|type=turbo[34],.*m=5", at_least=2)


def test_decoding_any_pair_equals_the_cpu(vulkan: Lavapipe, cpu_build: Build) -> None:
    pairs = f"(type_K={_ANY},type_V=turbo[34]|type_K=turbo[34],type_V={_ANY}),"
    _check_ops(vulkan, cpu_build, "FLASH_ATTN_EXT", f"hsk=64,.*kv=259,nb=1,.*{pairs}", at_least=20)


@pytest.mark.parametrize(
    "case",
    [
        f"hsk=(128|192|256),.*kv=259,nb=40,.*{_MIXED}",
        "hsk=(128|192),.*kv=113,nb=75,.*permute=.0,2,1,3.,kv_view=0",  # converts the cache to f16 first
        "hsk=128,.*nr23=.4,1.,kv=512,nb=1,.*sinks=1,max_bias=8.*turbo3",  # queries of a group of heads together
        "hsk=(64|128|256),.*kv=113,nb=3,.*type_K=turbo3,type_V=turbo3",  # a few tokens of groups of 1 to 16
    ],
    ids=["head-sizes", "as-f16", "grouped", "few-tokens"],
)
def test_attention_equals_the_cpu(vulkan: Lavapipe, cpu_build: Build, case: str) -> None:
    _check_ops(vulkan, cpu_build, "FLASH_ATTN_EXT", f"{case}.*", at_least=1)


def test_decoding_by_the_shader_of_other_types_equals_the_cpu(vulkan: Lavapipe, cpu_build: Build) -> None:
    """It is what a device takes that cannot run turbo_decode.comp."""
    pattern = f"hsk=64,.*kv=259,nb=1,.*{_MIXED}"
    _check_ops(vulkan, cpu_build, "FLASH_ATTN_EXT", pattern, at_least=1, env={"GGML_VK_FA_TURBO_DECODE": "0"})


@pytest.mark.parametrize("op", ["SET_ROWS", "GET_ROWS", "CPY", "FLASH_ATTN_EXT"])
def test_the_type_of_the_cpu_alone_is_refused(vulkan: Lavapipe, cpu_build: Build, op: str) -> None:
    arguments = ("test", "-b", "Vulkan0", "-o", op, "-p", "turbo3t")
    ended, output = vulkan.run(cpu_build.program("test-backend-ops"), *arguments)
    assert ended.ok, output[-4000:]
    cases = [line for line in output.splitlines() if line.strip().startswith(f"{op}(")]
    assert cases
    assert all("not supported" in line for line in cases)


def test_a_cache_of_that_type_is_refused_on_the_device(vulkan: Lavapipe, cpu_build: Build, tmp_path: Path) -> None:
    model = tiny_models.llama(tmp_path / "m.gguf", head_dim=64)
    pair = ("-ctk", "turbo3t", "-ctv", "turbo3t")
    bench = ("-m", str(model), "-ngl", "99", "-fa", "1", "-p", "0", "-n", "1", "-r", "1", "-v")
    ended, output = vulkan.run(cpu_build.program("llama-bench"), *bench, *pair)
    assert not ended.ok
    assert "cache type turbo3t has no kernels on Vulkan0" in output


def test_a_layer_from_the_projections_on_equals_the_cpu(vulkan: Lavapipe, cpu_build: Build) -> None:
    """Rotations are done by the shaders beside them, but for that of Q, and of many queries' output."""
    pattern = f"head_size=64,.*n_tokens=(1|70),.*{_MIXED}"
    output = _check_ops(vulkan, cpu_build, "ATTENTION_LAYER", pattern, at_least=2, env=_NAMES)
    _check_launches(output, {"ROTATED FLASH_ATTN_EXT", "FLASH_ATTN_EXT", "ROTATED MUL_MAT", "MUL_MAT"})


def test_a_layer_rotates_wider_heads_too(vulkan: Lavapipe, cpu_build: Build) -> None:
    """Two and four blocks of a head's K are one row of the rotation, and so are those of one projection's views."""
    pattern = "head_size=(128|256),n_head_kv=2,.*n_tokens=(1|3|5),n_kv=256,type_K=turbo4,type_V=turbo[34],.*norm=0,"
    output = _check_ops(vulkan, cpu_build, "ATTENTION_LAYER", pattern, at_least=4, env=_NAMES)
    _check_launches(output, {"ROTATED FLASH_ATTN_EXT", "ROTATED MUL_MAT", "MUL_MAT"})


def test_a_layer_whose_rotations_are_apart_equals_the_cpu(vulkan: Lavapipe, cpu_build: Build) -> None:
    pattern = f"head_size=64,.*n_tokens=1,n_kv=512,.*{_MIXED}"
    env = _NAMES | {"GGML_VK_DISABLE_FUSION": "1"}
    output = _check_ops(vulkan, cpu_build, "ATTENTION_LAYER", pattern, at_least=1, env=env)
    _check_launches(output, {"FLASH_ATTN_EXT", "MUL_MAT", "SET_ROWS"})


def test_a_model_has_no_rotation_apart_but_of_q(vulkan: Lavapipe, cpu_build: Build, tmp_path: Path) -> None:
    """In a model's graph the rotations are not beside what takes them until the backend moves them there.

    Other shaders of this model are stand-ins, of which the validation layers may complain.
    """
    model = tmp_path / "m.gguf"
    write_model("smoke", SMOKE_SHAPE, model)
    pair = ("-ctk", "turbo4", "-ctv", "turbo3")
    bench = ("-m", str(model), "-ngl", "99", "-fa", "1", "-p", "0", "-n", "1", "-r", "1")
    ended, output = vulkan.run(cpu_build.program("llama-bench"), *bench, *pair, env=_NAMES)
    assert ended.ok, output[-4000:]
    _check_launches(output, {"ROTATED FLASH_ATTN_EXT", "ROTATED MUL_MAT", "MUL_MAT"})


def test_a_device_without_half_floats_has_attention_too(vulkan: Lavapipe, cpu_build: Build) -> None:
    _check_ops(
        vulkan,
        cpu_build,
        "FLASH_ATTN_EXT",
        f"hsk=64,.*kv=259,nb=(1|40),.*{_MIXED}",
        at_least=2,
        env={"GGML_VK_DISABLE_F16": "1"},
    )


def _check_ops(
    vulkan: Lavapipe, cpu: Build, op: str, pattern: str, *, at_least: int, env: dict[str, str] | None = None
) -> str:
    arguments = ("test", "-b", "Vulkan0", "-o", op, "-p", pattern)
    ended, output = vulkan.run(cpu.program("test-backend-ops"), *arguments, env=env)
    assert ended.ok, output[-4000:]
    counts = re.findall(r"(\d+)/(\d+) tests passed", output)
    assert [passed for passed, _ in counts] == [run for _, run in counts]
    assert sum(int(run) for _, run in counts) >= at_least, output[-2000:]
    assert "not supported" not in output
    _check_silent(output)
    return output


def _check_launches(output: str, wanted: set[str]) -> None:
    """Check which of attention, of products of floats (rotations), and of stored rows are launches of their own."""
    names = r"^((?:ROTATED )?(?:FLASH_ATTN_EXT(?= )|MUL_MAT(?=(?:_VEC)? f32)|SET_ROWS(?=:)))"
    assert set(re.findall(names, output, re.MULTILINE)) == wanted


def _check_silent(output: str) -> None:
    """Let nothing pass of which the validation layers complain."""
    complaints = [line for line in output.splitlines() if "Validation" in line or "VUID" in line]
    assert not complaints, complaints[:5]


def _parts(data: bytes, n: int, block_bytes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Return the output of device_rows: blocks [2, n, bytes] and the bits of floats [2, n, 64]."""
    raw = np.frombuffer(data, np.uint8)
    split = 2 * n * block_bytes
    return raw[:split].reshape(2, n, block_bytes), raw[split:].view(np.uint32).reshape(2, n, 64)
