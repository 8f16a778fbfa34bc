"""The Metal kernels that are ours, run on the CPU through a stand-in for metal_stdlib, against the scalar reference.

What this cannot see: Metal's own front end and address spaces, fast math, the host code, speed. None of it has run on
Apple hardware.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clang import OLDEST_WITH_HALVES, clang_for
from tests.metal_host.msl_to_cpp import convert_folder
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

pytestmark = [pytest.mark.metal, pytest.mark.build]  # needs llama.cpp's own kernel files, though nothing of it is built

_HERE = Path(__file__).parent
HEAD_SIZES = (64, 128, 256)  # as check_attention.cpp has them; all sizes would compile for minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The compiler, and the patched tree's `ggml/src`: upstream's kernel files, with ours beside them."""

    clang: str
    tree: Path


@pytest.fixture(scope="session")
def workshop() -> Workshop:
    clang = clang_for("the Metal kernels as C++", OLDEST_WITH_HALVES)
    return Workshop(clang=clang, tree=stack.apply(fetch(load_pin())).path / "ggml" / "src")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a mistake in a kernel file would look like."""

    file: str
    text: str
    instead: str


def _plant(kernels: Path, fault: Fault) -> None:
    path = kernels / fault.file
    source = path.read_text("utf-8")
    assert fault.text in source, f"{fault.file} has no place for this fault any more: {fault.text}"
    path.write_text(source.replace(fault.text, fault.instead), "utf-8")


def _compile(check: str, workshop: Workshop, out: Path, *faults: Fault) -> Path:
    """Compile `check`.cpp with the kernel files of the tree as C++, faults and all."""
    clang, tree = workshop.clang, workshop.tree
    kernels = out / "kernels"
    convert_folder(tree / "ggml-metal" / "kernels", kernels, HEAD_SIZES)
    for fault in faults:
        _plant(kernels, fault)

    ref, shim = kernels_dir() / "ref", _HERE.parent / "native" / "shim"
    codec = (_HERE, shim, ref, kernels_dir() / "common")
    c_sources = (
        (_HERE / "reference.c", codec),
        (ref / "turbo-quants-ref.c", codec),
        (_HERE / "host_answers.c", (tree / "ggml-metal", tree.parent / "include")),
    )
    objects = []
    for source, folders in c_sources:
        objects.append(str(out / f"{source.stem}.o"))
        _run([clang, "-x", "c", "-std=c11", "-O2", *_include(*folders), "-c", str(source), "-o", objects[-1]])

    # -w: upstream's kernels as C++ warn about much, such as `const const`
    include = _include(_HERE, _HERE / "include", kernels, tree / "ggml-metal", tree)
    program = out / check
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-w"]
    _run([clang, *options, *include, str(_HERE / f"{check}.cpp"), *objects, "-o", str(program), "-lm"])
    return program


def _include(*folders: Path) -> list[str]:
    return [f"-I{folder}" for folder in folders]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + done.stderr[-4000:]


def _results(program: Path) -> dict[str, str]:
    """Return what the program says by check: `ok: ...` or `WRONG: ...`."""
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    results = {head.split(" ", 1)[1]: f"{head.split(' ', 1)[0]}: {detail}" for head, detail in lines}
    wrong = any(text.startswith("WRONG") for text in results.values())
    assert done.returncode == int(wrong), f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return results


def _wrong(results: dict[str, str]) -> set[str]:
    return {name for name, text in results.items() if not text.startswith("ok: ")}


def test_rows_are_written_and_read_as_the_reference_does(workshop: Workshop, tmp_path: Path) -> None:
    results = _results(_compile("check_rows", workshop, tmp_path))
    assert not _wrong(results), results
    for name in ("turbo3", "turbo4"):
        assert {f"kernel_set_rows_f32_i64_{name}", f"kernel_get_rows_{name}", f"kernel_cpy_{name}_f16"} <= set(results)


@pytest.mark.parametrize(
    ("fault", "found_in"),
    [
        (
            Fault(file="turbo.metal", text="code0 | code1 << 4", instead="code1 | code0 << 4"),
            "kernel_set_rows_f32_i64_turbo4",
        ),
        (
            Fault(file="turbo.metal", text="simd_shuffle_xor(w, 8)", instead="simd_shuffle_xor(w, 4)"),
            "kernel_set_rows_f32_i64_turbo3",
        ),
        (
            Fault(file="turbo-dequantize.h", text=">> 4*(il >> 3)", instead=">> 4*(1 - (il >> 3))"),
            "kernel_get_rows_turbo4",
        ),
    ],
    ids=["swapped nibbles written", "a plane of turbo3", "swapped nibbles read"],
)
def test_a_planted_fault_in_rows_is_found(fault: Fault, found_in: str, workshop: Workshop, tmp_path: Path) -> None:
    assert found_in in _wrong(_results(_compile("check_rows", workshop, tmp_path, fault)))


def test_attention_of_every_pair_is_that_of_the_cache_as_the_reference_reads_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    results = _results(_compile("check_attention", workshop, tmp_path))
    assert not _wrong(results), results
    for path in ("flash_attn_ext", "flash_attn_ext_vec"):
        at_128 = [name for name in results if name.startswith(f"kernel_{path}_") and "_dk128_" in name]
        assert len([name for name in at_128 if ("_vec_" in name) == path.endswith("vec")]) == 14  # pairs


def test_a_lost_half_of_v_is_found_in_both_kernels(workshop: Workshop, tmp_path: Path) -> None:
    batch = Fault(
        file="fa_common.metal",
        text="sv4x4[4*ty + tx] = tmp;",
        instead="sv4x4[4*ty + tx] = tx < 2 ? tmp : v4x4_t((v_t) 0);",
    )
    vec = Fault(
        file="fa_vec_common.metal",
        text="deq_v_t4(pv4 + i/nl_v, i%nl_v, mv);",
        instead="deq_v_t4(pv4 + i/nl_v, i%nl_v, mv); if (2*i >= DV4) { mv = v4_t(0.0f); }",
    )
    results = _results(_compile("check_attention", workshop, tmp_path, batch, vec))
    direct = {name for name in results if "_f16_dk" in name}  # V in f16 does not come this way
    kernels = {name for name in results if "_dk" in name}
    assert direct
    assert _wrong(results) == kernels - direct
