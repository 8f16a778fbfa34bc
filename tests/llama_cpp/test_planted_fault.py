"""The quality gate, on a build with a fault planted: V's second half is zero, in the decode kernel only.

Perplexity at the usual batch takes the prompt's path and never sees it; a public fork lived with this fault for weeks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from turbobench import proc, report
from turbobench.build import Build
from turbobench.commands.run import finish
from turbobench.config import SweepSpec
from turbobench.errors import QualityGateError
from turbobench.prepare import Request, prepare
from turbobench.sweep import Prepared, run_sweep
from turbobench.tidy import rows
from turbobench.toolchain import find_tools

SPEC = SweepSpec.model_validate(
    {
        "name": "planted-fault",
        "pairs": ["turbo4"],
        "quality": {"n_ctx": 256, "chunks": 2, "decode": {"chunks": 1}},
    }
)
SOUND = "    write_out(a, r%a.n_q, head, seq, sum, s.acc);\n}"
PLANTED = "    std::fill(s.acc + a.DV/2, s.acc + a.DV, 0.0f);\n" + SOUND


@pytest.fixture(scope="module")
def sound(cpu_build: Build) -> Prepared:
    """Return the sweep on the build as it is."""
    return replace(prepare(Request(spec=SPEC)), build=cpu_build)


@pytest.fixture(scope="module")
def faulty(sound: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Return the same on a copy of the build's programs, with one library made again from one changed file."""
    build, folder = sound.build.bin_dir.parent, tmp_path_factory.mktemp("faulty")
    shutil.copytree(build / "bin", folder / "bin", symlinks=True)
    ninja = find_tools(build.parent).ninja
    listed = proc.check(proc.Command(argv=[ninja, "-C", build, "-t", "commands", "bin/libggml-cpu.so"])).stdout
    compiling = next(line for line in listed.splitlines() if line.endswith("/fattn-quant.cpp"))
    linking = next(line for line in listed.splitlines() if " -o bin/libggml-cpu.so" in line)
    source, made = Path(compiling.split()[-1]), compiling.split(" -o ")[1].split()[0]
    text = source.read_text(encoding="utf-8")
    assert text.count(SOUND) == 1
    changed = folder / source.name
    changed.write_text(text.replace(SOUND, PLANTED), encoding="utf-8")
    compiling = compiling.replace(made, f"{folder}/fault.o").replace(
        f" -c {source}", f" -I{source.parent} -c {changed}"
    )
    linking = linking.replace(made, f"{folder}/fault.o").replace(" -o bin/", f" -o {folder}/bin/")
    for command in (compiling, linking):
        proc.check(proc.Command(argv=["sh", "-c", command], cwd=build))
    return replace(sound, build=replace(sound.build, id="faulty", bin_dir=folder / "bin"))


def _executor(build: Build) -> Callable[..., proc.Completed]:
    """Run programs with the libraries beside them: their own search path is that of the build they were copied from."""

    def run(command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
        env = {**(command.env or {}), "LD_LIBRARY_PATH": str(build.bin_dir)}
        return proc.run(replace(command, env=env), on_line=on_line)

    return run


@pytest.mark.skipif(os.name == "nt", reason="the library's search path is that of Linux")
def test_a_fault_of_the_decode_kernel_alone_fails_the_gate_and_the_command(faulty: Prepared, tmp_path: Path) -> None:
    end = run_sweep(faulty, tmp_path, executor=_executor(faulty.build))
    assert end.failed == ()
    with pytest.raises(QualityGateError, match=r"turbo4 at 256 tokens has KLD .* through the decode kernels"):
        finish(end)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| DIFFERS " in text
    found = {row["path"]: row for row in rows(report.load(tmp_path).result_set) if row["kind"] == "quality"}
    assert found["decode"]["kld_mean"] > 10 * found["prefill"]["kld_mean"]  # prefill itself is sound


def test_the_build_as_it_is_passes(sound: Prepared, tmp_path: Path) -> None:
    end = run_sweep(sound, tmp_path)
    finish(end)
    assert "| equal " in (tmp_path / "report.md").read_text(encoding="utf-8")
