from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import fake_tools
from tests.fake_tools import H200, RTX_4090
from tests.trees import Checkout, source_tree
from turbobench import backends, proc, stack
from turbobench.build import Build, build, find_build
from turbobench.errors import BuildError, ConfigError, MeasurementError, ToolchainError
from turbobench.git import Git
from turbobench.stack import PatchedTree


@pytest.fixture
def tree(tmp_path: Path, cache: Path) -> PatchedTree:
    return stack.apply(source_tree(tmp_path), stack=Checkout(tmp_path / "checkout").stack())


def _changed(tree: PatchedTree, name: str, text: str) -> PatchedTree:
    """Commit a change, as a developer does in a tree of his own."""
    (tree.path / name).write_text(text)
    git = Git.at(tree.path)
    git.check("commit", "-q", "-a", "-m", "change")
    return stack.tree_at(tree.path)


def _runs(bin_dir: Path) -> None:
    proc.check(proc.Command(argv=(bin_dir / "llama-bench",)))


def _must_not_run(_: Path) -> None:
    pytest.fail("a cached build was smoke-tested again")


def test_a_build_is_stamped_after_its_smoke_test(tree: PatchedTree) -> None:
    seen = []

    def smoke(bin_dir: Path) -> None:
        seen.append(find_build(tree, "cpu"))
        _runs(bin_dir)

    made = build(tree, "cpu", smoke=smoke)
    assert seen == [None]
    assert find_build(tree, "cpu") == made
    assert (made.tree_id, made.base_commit) == (tree.tree_id, tree.base_commit)
    assert made.program("llama-quantize").is_file()


def test_a_second_build_is_the_first(tree: PatchedTree) -> None:
    made = build(tree, "cpu", smoke=_runs)
    assert build(tree, "cpu", smoke=_must_not_run) == made


def test_more_targets_extend_the_build(tree: PatchedTree) -> None:
    made = build(tree, "cpu", smoke=_runs)
    with pytest.raises(BuildError, match="has no llama-server") as missing:
        made.program("llama-server")
    assert "--with server" in missing.value.hint
    more = build(tree, "cpu", smoke=_runs, targets=("llama-bench", "llama-server"))
    assert more.id == made.id
    assert more.program("llama-server").is_file()


def test_a_failed_smoke_test_leaves_no_build(tree: PatchedTree) -> None:
    def smoke(_: Path) -> None:
        raise MeasurementError("every logit is NaN")

    with pytest.raises(MeasurementError):
        build(tree, "cpu", smoke=smoke)
    assert find_build(tree, "cpu") is None


def test_an_interrupted_smoke_test_leaves_no_build_and_compiled_objects(tree: PatchedTree) -> None:
    def smoke(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tree, "cpu", smoke=smoke)
    assert find_build(tree, "cpu") is None
    program = tree.path / "build-cpu" / "bin" / "llama-bench"
    time = program.stat().st_mtime_ns
    build(tree, "cpu", smoke=_runs)
    assert program.stat().st_mtime_ns == time


def test_a_crash_without_remedy_is_a_build_error_that_names_the_signal(tree: PatchedTree) -> None:
    def smoke(_: Path) -> None:
        proc.check(proc.Command(argv=(sys.executable, "-c", "import os; os.abort()")))

    with pytest.raises(BuildError, match=r"compiles, but does not work: .*SIGABRT"):
        build(tree, "cpu", smoke=smoke)
    assert find_build(tree, "cpu") is None


def test_a_compile_error_is_shown_with_the_log(tree: PatchedTree) -> None:
    broken = _changed(tree, "main.c", "int main(void) { return missing; }\n")
    with pytest.raises(BuildError, match=r"compiling the cpu build failed .*\n.*main\.c:1:.*error:.*missing") as failed:
        build(broken, "cpu", smoke=_must_not_run)
    log = Path(failed.value.hint.removeprefix("see "))
    assert "missing" in log.read_text()


def test_a_configure_error_is_shown(tree: PatchedTree) -> None:
    broken = _changed(tree, "CMakeLists.txt", "cmake_minimum_required(VERSION 3.14)\nproject(x C)\nnonsense()\n")
    with pytest.raises(BuildError, match="configuring the cpu build failed"):
        build(broken, "cpu", smoke=_must_not_run)


def test_a_build_of_another_tree_state_is_none_of_this_one(tree: PatchedTree) -> None:
    first = build(tree, "cpu", smoke=_runs)
    other = _changed(tree, "main.c", "int main(void) { return 0 * 1; }\n")
    assert find_build(other, "cpu") is None
    assert build(other, "cpu", smoke=_runs).id != first.id


def test_a_build_made_on_another_cpu_is_not_used(tree: PatchedTree) -> None:
    build(tree, "cpu", smoke=_runs)
    stamp = tree.path / "build-cpu" / "turbobench-build.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "cpu": "Another CPU"}))
    assert find_build(tree, "cpu") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_torn_stamp_is_no_build(tree: PatchedTree, text: str) -> None:
    (tree.path / "build-cpu").mkdir()
    (tree.path / "build-cpu" / "turbobench-build.json").write_text(text)
    assert find_build(tree, "cpu") is None


def test_building_does_not_make_the_tree_dirty(tree: PatchedTree) -> None:
    build(tree, "cpu", smoke=_runs)
    assert stack.tree_at(tree.path) == tree


def test_an_unknown_backend_is_refused_with_a_suggestion(tree: PatchedTree) -> None:
    with pytest.raises(ConfigError, match="did you mean 'cpu'"):
        build(tree, "cpuu", smoke=_must_not_run)


def test_no_compiler_is_told_with_the_command_that_installs_one(
    tree: PatchedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    monkeypatch.setenv("CXX", "no-such-c++")
    with pytest.raises(ToolchainError, match="CC=no-such-cc"):
        build(tree, "cpu", smoke=_must_not_run)


def test_the_place_of_the_package_is_no_part_of_the_flags(tree: PatchedTree) -> None:
    made: Build = build(tree, "cpu", smoke=_runs)
    assert not any("/" in flag.partition("=")[2] for flag in made.cmake_flags)


@pytest.fixture
def gpu_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an nvcc on PATH, and an nvidia-smi that finds no GPU."""
    fake_tools.no_gpu_settings(monkeypatch)
    folder = tmp_path / "gpu-tools"
    fake_tools.first_on_path(monkeypatch, folder)
    fake_tools.nvcc(folder, 80, 89, 90)
    fake_tools.script(folder, "nvidia-smi", "exit 9")
    return folder


def _plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *gpus: str) -> None:
    """Let the driver find these: at a path of its own, since what one path says is remembered."""
    fake_tools.nvidia_smi(folder / "driver", *gpus)
    fake_tools.first_on_path(monkeypatch, folder / "driver")


def test_without_a_gpu_and_without_an_architecture_there_is_no_cuda_build(tree: PatchedTree, gpu_tools: Path) -> None:
    with pytest.raises(ToolchainError, match="--arch 90"):
        build(tree, "cuda", smoke=_must_not_run)


def test_a_build_for_a_gpu_that_is_not_here_is_stamped_as_never_run(tree: PatchedTree, gpu_tools: Path) -> None:
    made = build(tree, "cuda", smoke=_must_not_run, archs=("90",))
    assert "never run" in made.untested
    assert made.archs == ("90",)
    assert "-DGGML_CUDA_FA_QUANTS=f16-f16;bf16-bf16" in made.cmake_flags
    assert made.compiler.endswith("; nvcc 13.0.88")
    assert build(tree, "cuda", smoke=_must_not_run, archs=("90",)) == made


def test_once_there_is_a_gpu_the_same_build_is_tested_and_keeps_its_id(
    tree: PatchedTree, gpu_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untested = build(tree, "cuda", smoke=_must_not_run, archs=("90",))
    _plug_in(gpu_tools, monkeypatch, H200)
    tested: list[Path] = []
    made = build(tree, "cuda", smoke=tested.append)
    assert len(tested) == 1
    assert (made.id, made.untested) == (untested.id, "")


def test_a_gpu_that_the_build_has_no_code_for_needs_another_build(
    tree: PatchedTree, gpu_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = build(tree, "cuda", smoke=_must_not_run, archs=("89", "90"))
    _plug_in(gpu_tools, monkeypatch, RTX_4090)
    assert find_build(tree, "cuda") == both
    assert find_build(tree, "cuda", ("80",)) is None
    other = build(tree, "cuda", smoke=_runs, archs=("80",))
    assert other.id != both.id
    assert find_build(tree, "cuda") is None


def test_an_architecture_is_refused_for_the_cpu() -> None:
    with pytest.raises(ConfigError, match="not for the cpu backend"):
        backends.get("cpu").arch("90")
