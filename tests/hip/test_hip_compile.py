"""Every CUDA source that is ours or that a patch touches, compiled by clang for AMD GPUs, down to their instructions.

Nothing is run: there is no AMD GPU here, and no device library is linked. `.ci/hip-headers` gets the headers.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests.clang import clang_for
from turbobench import stack
from turbobench.paths import kernels_dir, patches_dir
from turbobench.source import fetch, load_pin
from turbobench.toolchain import find_tools

pytestmark = [pytest.mark.hip, pytest.mark.build]  # needs llama.cpp's sources, though nothing of it is built

_HERE = Path(__file__).parent
_OLDEST_CLANG = 19  # the first that knows gfx1201
HEADERS = "TURBOBENCH_HIP_HEADERS"

WAVES = {"gfx1100": 32, "gfx1201": 32, "gfx90a": 64, "gfx942": 64}
CACHE_TYPES = ("f16", "q8_0", "q5_0", "q4_0", "turbo4", "turbo3")
TYPE_IDS = {"f16": 1, "q4_0": 2, "q5_0": 6, "q8_0": 8, "turbo3": 96, "turbo4": 97}  # of enum ggml_type
HEAD_SIZES = (64, 128, 256)

# one instance with each turbo type as K and as V; what the others add is upstream's code
INSTANCES = ("fattn-vec-turbo3-turbo4.cu", "fattn-vec-turbo4-turbo3.cu")
SHUFFLES = ("turbo-quants.cu", "convert.cu", *INSTANCES)  # decode whole blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """The compiler with what every file needs, the patched tree's ggml-cuda folder, and the generated instances."""

    command: tuple[str, ...]
    cuda: Path
    instances: tuple[Path, ...]

    def compile(self, source: Path, out: Path, *options: str) -> str:
        """Compile to assembly and return it."""
        path = out / f"{source.stem}.s"
        _run([*self.command, *options, "-S", str(source), "-o", str(path)])
        return path.read_text("utf-8")

    def check_syntax(self, source: Path, *options: str) -> None:
        _run([*self.command, *options, "-fsyntax-only", str(source)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, " ".join(command) + "\n" + done.stderr[-4000:]


def _rocm() -> Path:
    for place in (Path(os.environ.get(HEADERS) or "/opt/rocm"), Path("/opt/rocm")):
        if (place / "include" / "hip" / "hip_runtime.h").is_file():
            return place
    pytest.skip(f"no HIP headers: run `.ci/hip-headers DIR` and set {HEADERS}=DIR/usr")


def _probe(command: tuple[str, ...], out: Path) -> None:
    source = out / "probe.cu"
    source.write_text("#include <hip/hip_runtime.h>\n__global__ void k(float * x) { x[threadIdx.x] = 0.0f; }\n")
    argv = [*command, "--offload-arch=gfx1100", "--offload-device-only", "-S", str(source), "-o", str(out / "probe.s")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this clang does not compile an empty kernel with these HIP headers: {done.stderr[-600:]}")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    rocm, out = _rocm(), tmp_path_factory.mktemp("hip")
    compiler = (
        clang_for("the HIP sources", _OLDEST_CLANG),
        "-x",
        "hip",
        f"--rocm-path={rocm}",
        f"-I{rocm}/include",
        "-nogpulib",
        "-std=gnu++17",
        "-O3",
    )
    _probe(compiler, out)
    tree = stack.apply(fetch(load_pin())).path
    tools = find_tools(tree)
    ninja = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools.ninja}")
    _run([str(tools.cmake), *ninja, "-S", str(_HERE), "-B", str(out), f"-DTREE={tree}"])
    ggml = tree / "ggml"
    folders = (ggml / "include", ggml / "src", ggml / "src" / "ggml-cuda", out / "fattn-vec")
    defines = ("__HIP_PLATFORM_AMD__=1", "GGML_USE_HIP", "NDEBUG")
    return Workshop(
        command=(
            *compiler,
            *(f"-I{folder}" for folder in folders),
            *(f"-D{define}" for define in defines),
            *(out / "definitions.txt").read_text("utf-8").splitlines(),
        ),
        cuda=ggml / "src" / "ggml-cuda",
        instances=tuple(map(Path, (out / "sources.txt").read_text("utf-8").splitlines())),
    )


def sources(workshop: Workshop) -> list[Path]:
    """Return the `.cu` files that we add or touch, and two of the generated ones."""
    ours = {path.name for path in (kernels_dir() / "cuda").glob("*.cu")}
    patches = "".join(path.read_text("utf-8") for path in patches_dir().glob("*/*.patch"))
    touched = set(re.findall(r"^\+\+\+ b/ggml/src/ggml-cuda/([\w-]+\.cu)$", patches, re.MULTILINE))
    assert ours
    assert touched
    by_name = {path.name: path for path in workshop.instances}
    return [workshop.cuda / name for name in sorted(ours | touched)] + [by_name[name] for name in INSTANCES]


@pytest.mark.parametrize("arch", WAVES)
def test_our_sources_compile_for_an_amd_gpu(workshop: Workshop, arch: str, tmp_path: Path) -> None:
    files = sources(workshop)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        options = (f"--offload-arch={arch}", "--offload-device-only")
        compiled = pool.map(lambda source: workshop.compile(source, tmp_path, *options), files)
        assembly = dict(zip((source.name for source in files), compiled, strict=True))
    for name in SHUFFLES:
        assert "v_perm_b32" in assembly[name], f"{name}: no byte shuffle"
    waves = set(re.findall(r"\.wavefront_size: (\d+)", "".join(assembly.values())))
    assert waves == {str(WAVES[arch])}


def _case(head_size: int, type_k: str, type_v: str) -> str:
    """Return how the symbol of ggml_cuda_flash_attn_ext_vec_case<head size, K, V> begins."""
    k, v = TYPE_IDS[type_k], TYPE_IDS[type_v]
    return f"_Z33ggml_cuda_flash_attn_ext_vec_caseILi{head_size}EL9ggml_type{k}EL{{}}{v}EEv"


def _is_in(assembly: str, head_size: int, type_k: str, type_v: str) -> bool:
    # the second mention of the enum is abbreviated
    return any(_case(head_size, type_k, type_v).format(name) in assembly for name in ("S0_", "9ggml_type"))


def test_every_pair_of_cache_types_has_a_vec_kernel(workshop: Workshop, tmp_path: Path) -> None:
    """The choice of kernel names every pair and head size, and each is instantiated: none is converted at each step."""
    pairs = list(product(CACHE_TYPES, CACHE_TYPES))
    chosen = workshop.compile(workshop.cuda / "fattn.cu", tmp_path, "--offload-host-only")
    instances = {re.sub(r"fattn-vec-(?:instance-)?", "", path.stem): path for path in workshop.instances}
    missing = [
        (k, v) for k, v in pairs if f"{k}-{v}" not in instances or not all(_is_in(chosen, d, k, v) for d in HEAD_SIZES)
    ]
    assert not missing
    defined = workshop.compile(instances["turbo4-turbo3"], tmp_path, "--offload-host-only")
    assert all(_is_in(defined, d, "turbo4", "turbo3") for d in HEAD_SIZES)
    assert not _is_in(defined, 64, "turbo3", "turbo4")


def test_the_host_side_compiles(workshop: Workshop) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda source: workshop.check_syntax(source, "--offload-host-only"), sources(workshop)))
