"""Compile our CUDA kernels and a check of them as C++, with stand-ins for upstream's headers and CUDA's; run it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.clang import OLDEST_WITH_HALVES, clang_for
from tests.cuda_host.cuda_to_cpp import harness, kernels
from turbobench import stack
from turbobench.paths import kernels_dir
from turbobench.source import fetch, load_pin

TESTS = Path(__file__).parent.parent

DECODE_KERNELS = (
    *("attention-row", "turbo-quants-decode", "fattn-decode-kernel", "fattn-decode-columns", "fattn-decode-combine"),
    *("fattn-decode-place", "fattn-decode-ring", "fattn-decode-scores", "fattn-decode-values", "fattn-decode-loaders"),
    *("fattn-decode-query", "fattn-decode-params"),
)

Fault = tuple[str, str, str]
"""A header's name, a text in it, and what replaces that."""


def write_kernels(out: Path, headers: tuple[str, ...], faults: tuple[Fault, ...] = ()) -> None:
    """Write `headers` of ggml_kernels/cuda to `out` as C++, with `faults` in them."""
    for name in headers:
        source = kernels((kernels_dir() / "cuda" / f"{name}.cuh").read_text("utf-8"))
        for header, text, instead in faults:
            assert header != name or text in source, f"{name} has no place for this fault any more: {text}"
            source = source.replace(text, instead) if header == name else source
        (out / f"{name}.cuh").write_text(source, "utf-8")


def write_harness(out: Path, name: str) -> Path:
    """Write a harness of tests/native/cuda, and the formats that it shares, to `out` as C++; returns its path."""
    native = TESTS / "native" / "cuda"
    (out / "cache_formats.cuh").write_text((native / "cache_formats.cuh").read_text("utf-8"), "utf-8")
    check = out / "harness.cpp"
    check.write_text(harness((native / name).read_text("utf-8")), "utf-8")
    return check


def run(check: Path, out: Path, options: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Compile `check` with what is in `out`, and run it; skips the test where no compiler can."""
    clang = clang_for("CUDA kernels as C++", OLDEST_WITH_HALVES)
    ggml = stack.apply(fetch(load_pin())).path / "ggml"
    metal, here = TESTS / "metal_host", TESTS / "cuda_host"
    folders = (out, here / "include", TESTS / "hip" / "include", metal, metal / "include", kernels_dir() / "common")
    include = [f"-I{folder}" for folder in (*folders, ggml / "include", ggml / "src")]
    program = out / "check"
    always = ("-std=c++17", "-O1", "-w", "-ffp-contract=off", "-fsanitize=alignment", "-fsanitize-trap=alignment")
    command = [clang, *always, *options, *include, str(check), "-o", str(program), "-lm"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-4000:]
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
