"""A conformance run as it goes wrong: crashes, refusals, nothing run, an interruption, another build, no device."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from tests import fake_tools
from turbobench import backends, proc
from turbobench.backends import metal
from turbobench.build import Build
from turbobench.conformance import report
from turbobench.conformance.cases import AttentionCase, all_cases
from turbobench.conformance.finding import Finding
from turbobench.conformance.units import OP_UNITS, find_device, run_op_unit, unit_ids
from turbobench.conformance.verify import FAULT, require_device, verify
from turbobench.errors import ConfigError, ConformanceError, DeviceMissingError
from turbobench.store import SCHEMA, open_store, read

DATA = Path(__file__).parent.parent / "data"
ROWS = "[CGNS]* turbo?"  # the ten cases of rows
_DEVICE = {"device": "CPU", "description": "Some CPU"}


@dataclass
class Worker:
    """A worker that answers from a table; a case that is not in it passes, and one that "crashes" ends the process."""

    answers: dict[str, str] = field(default_factory=dict)
    device: dict[str, object] = field(default_factory=lambda: dict(_DEVICE))
    asked: list[str] = field(default_factory=list)

    def __call__(self, command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
        assert on_line is not None
        returncode = 0
        for fields in self._lines((command.stdin or "").splitlines()):
            if "crash" in fields:
                returncode = -6
                break
            on_line("ggml says something")
            on_line(json.dumps(fields))
        return _completed(command, returncode)

    def _lines(self, ids: list[str]) -> Iterator[dict[str, object]]:
        yield self.device
        for name in ids:
            self.asked.append(name)
            yield {"start": name}
            match self.answers.get(name, "passed"):
                case "crash":
                    yield {"crash": True}
                case "interrupt":
                    raise KeyboardInterrupt
                case answer:
                    reason = "" if answer == "passed" else f"because {answer}"
                    yield {"case": name, "outcome": answer, "n_checks": 2, "worst": {"NMSE": 1e-9}, "reason": reason}


def _completed(command: proc.Command, returncode: int, stdout: str = "", *, timed_out: bool = False) -> proc.Completed:
    return proc.Completed(
        argv=tuple(map(str, command.argv)),
        returncode=returncode,
        stdout=stdout,
        tail=("ggml.c:1: GGML_ASSERT(false) failed",),
        log=None,
        wall_s=1.0,
        timed_out=timed_out,
    )


@pytest.fixture
def build(tmp_path: Path, cache: Path) -> Build:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "test-backend-ops").touch()
    return Build(
        id="b1",
        backend="cpu",
        tree_id="t1",
        base_commit="c1",
        bin_dir=tmp_path / "bin",
        cmake_flags=(),
        compiler="cc 1",
        cpu="Some CPU",
        notes=(),
        built_at="now",
    )


def _outcomes(folder: Path) -> dict[str, str]:
    return {r["case"]: r["outcome"] for r in read(folder / "cpu.jsonl") if r["kind"] == "conformance-case"}


def test_each_case_is_stored_with_where_it_ran(build: Build, tmp_path: Path) -> None:
    verified = verify(build, tmp_path / "out", only=ROWS, executor=Worker())
    assert len(verified.cases) == 10
    header = read(tmp_path / "out" / "cpu.jsonl")[0]
    assert (header["tree_id"], header["build_id"], header["description"]) == ("t1", "b1", "Some CPU")
    assert header["date"]
    verified.check()


def test_a_crash_fails_its_case_and_the_rest_goes_on(build: Build, tmp_path: Path) -> None:
    worker = Worker({"CPY to turbo3": "crash"})
    verified = verify(build, tmp_path, only=ROWS, executor=worker)
    assert len(verified.cases) == 10
    (failed,) = verified.failed
    assert failed.case == "CPY to turbo3"
    assert failed.reason == (
        "the process ended before its result: killed by SIGABRT (ggml.c:1: GGML_ASSERT(false) failed)"
    )
    with pytest.raises(ConformanceError, match="1 of 10 cases failed, the first: CPY to turbo3: the process ended"):
        verified.check()


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on_there(build: Build, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        verify(build, tmp_path, only=ROWS, executor=Worker({"GET_ROWS turbo3": "interrupt"}))
    assert list(_outcomes(tmp_path)) == ["SET_ROWS turbo3", "CPY to turbo3"]
    worker = Worker()
    assert len(verify(build, tmp_path, only=ROWS, executor=worker).cases) == 10
    assert worker.asked[0] == "GET_ROWS turbo3"
    assert len(worker.asked) == 8


def test_a_failed_case_is_run_again_and_its_last_result_counts(build: Build, tmp_path: Path) -> None:
    assert verify(build, tmp_path, only=ROWS, executor=Worker({"NMSE turbo4": "failed"})).failed
    worker = Worker()
    assert not verify(build, tmp_path, only=ROWS, executor=worker).failed
    assert worker.asked == ["NMSE turbo4"]


@pytest.mark.parametrize(("build_id", "tree_id"), [("b2", "t1"), ("b1", "t2")])
def test_results_of_another_build_do_not_count(build: Build, tmp_path: Path, build_id: str, tree_id: str) -> None:
    verify(build, tmp_path, only=ROWS, executor=Worker())
    worker = Worker()
    verify(replace(build, id=build_id, tree_id=tree_id), tmp_path, only="SET_ROWS turbo3", executor=worker)
    assert worker.asked == ["SET_ROWS turbo3"]
    assert list(_outcomes(tmp_path)) == ["SET_ROWS turbo3"]


def test_results_of_another_device_do_not_count(build: Build, tmp_path: Path) -> None:
    verify(build, tmp_path, only=ROWS, executor=Worker())
    other = Worker(device={"device": "CPU", "description": "Another CPU"})
    verify(build, tmp_path, only="SET_ROWS turbo3", executor=other)
    assert list(_outcomes(tmp_path)) == ["SET_ROWS turbo3"]


def test_what_was_not_run_is_named(build: Build, tmp_path: Path) -> None:
    verified = verify(build, tmp_path, only=ROWS, executor=Worker())
    assert len(verified.missing) == len(unit_ids("cpu")) - 10
    assert f"{len(verified.missing)} were not run" in report.render(verified)


def test_a_glob_that_fits_nothing_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no case of cpu is named"):
        verify(build, tmp_path, only="SETROWS*", executor=Worker())


def test_a_build_that_finds_no_device_is_refused(build: Build) -> None:
    error: dict[str, object] = {
        "error": "this build finds no cuda device here, only: CPU",
        "hint": "x",
        "exit_code": 27,
    }
    with pytest.raises(DeviceMissingError, match="no cuda device here, only: CPU"):
        find_device(build, Worker(device=error))


def test_a_worker_that_does_not_start_is_an_error_with_its_log(build: Build, tmp_path: Path) -> None:
    def dies(command: proc.Command, *, on_line: object) -> proc.Completed:
        return _completed(command, -4)

    with pytest.raises(proc.CommandError, match="killed by SIGILL"):
        verify(build, tmp_path, executor=dies)


@pytest.mark.parametrize("backend", ["cuda", "hip", "metal"])
def test_a_backend_without_a_device_is_refused_before_anything_is_built(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.script(tmp_path, "nvidia-smi", "exit 9")
    fake_tools.script(tmp_path, "rocminfo", "exit 1")
    fake_tools.script(tmp_path, "rocm_agent_enumerator", "exit 1")
    fake_tools.first_on_path(monkeypatch, tmp_path)
    monkeypatch.setattr(metal, "gpus", lambda: ())
    with pytest.raises(DeviceMissingError, match=f"no {backend} device here, nothing was verified"):
        require_device(backend)


def test_a_misspelt_backend_is_told_apart_from_one_without_a_device() -> None:
    with pytest.raises(ConfigError, match="unknown backend 'metall'"):
        require_device("metall")


def test_a_device_lets_the_backend_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.nvidia_smi(tmp_path, fake_tools.H200)
    fake_tools.first_on_path(monkeypatch, tmp_path)
    require_device("cuda")
    require_device("cpu")


# ---- test-backend-ops ------------------------------------------------------------------------------------------------

ATTENTION = next(unit for unit in OP_UNITS if unit.op == "FLASH_ATTN_EXT")
COPY = next(unit for unit in OP_UNITS if unit.op == "CPY")


def _prints(text: str, returncode: int = 0, *, timed_out: bool = False) -> Callable[[proc.Command], proc.Completed]:
    return lambda command: _completed(command, returncode, text, timed_out=timed_out)


def _captured(name: str) -> str:
    return (DATA / f"test-backend-ops-{name}.stdout").read_text(encoding="utf-8")


def test_cases_that_passed_are_counted(build: Build) -> None:
    found = run_op_unit(build, COPY, "CPU", _prints(_captured("ok")))
    assert (found.outcome, found.n_checks) == ("passed", 4)


def test_a_wrong_value_fails_with_what_was_said(build: Build) -> None:
    found = run_op_unit(build, ATTENTION, "CPU", _prints(_captured("fail"), 1))
    assert (found.outcome, found.n_checks) == ("failed", 3)
    assert "ERR = 0.984243702 > 0.000500000" in found.reason


@pytest.mark.parametrize(("name", "device"), [("no-device", "CUDA0"), ("no-case", "CPU")])
def test_a_run_that_compared_nothing_fails(build: Build, name: str, device: str) -> None:
    assert run_op_unit(build, COPY, device, _prints(_captured(name))).outcome == "failed"


def test_a_crash_fails_and_says_after_what(build: Build) -> None:
    whole = _captured("ok")
    found = run_op_unit(build, COPY, "CPU", _prints(whole[: whole.index("  4/4")], -11))
    assert found.outcome == "failed"
    assert "killed by SIGSEGV" in found.reason
    assert "after type_src=turbo4,type_dst=f32" in found.reason


def test_a_refusal_fails_where_it_is_promised_and_is_counted_where_it_is_not(build: Build) -> None:
    text = _captured("fail").replace("2 tests passed", "1 tests passed").replace("1/3 tests", "1/1 tests")
    refused = text.replace("[FLASH_ATTN_EXT] ERR", "x").replace("\x1b[1;31mFAIL\x1b[0m", "not supported [CPU]")
    at_192 = refused.replace("hsk=64,hsv=64", "hsk=192,hsv=192")
    promised = run_op_unit(build, ATTENTION, "CPU", _prints(refused))
    assert promised.outcome == "failed"
    assert "not supported, and the design says that it is" in promised.reason
    beyond = run_op_unit(replace(build, backend="cuda"), ATTENTION, "CPU", _prints(at_192))
    assert (beyond.outcome, beyond.worst) == ("passed", {"refused, not promised": 2.0})


def test_what_no_device_of_a_backend_must_take_may_be_refused(build: Build) -> None:
    """Vulkan promises tensors of 2^27 bytes."""
    text = _captured("ok").replace("CPY", "GET_ROWS").replace("4/4 tests", "3/3 tests")
    case = next(line for line in text.splitlines() if "type_src=turbo4" in line)
    name = "GET_ROWS(type=turbo4,n=256,m=80000,r={r},be1=2,be2=1,v=0,vs0=0,offset_cols=0): not supported [CPU]"
    unit = replace(COPY, op="GET_ROWS")

    def outcome(r: int) -> str:
        refused = text.replace(case, f"  {name.format(r=r)}")
        return run_op_unit(replace(build, backend="vulkan"), unit, "CPU", _prints(refused)).outcome

    assert (outcome(70000), outcome(60000)) == ("passed", "failed")


def test_a_hang_fails(build: Build) -> None:
    found = run_op_unit(build, COPY, "CPU", _prints(_captured("ok"), timed_out=True))
    assert found.outcome == "failed"
    assert "timed out" in found.reason


# ---- the report ------------------------------------------------------------------------------------------------------


def _everything(build: Build, folder: Path, worker: Worker) -> None:
    """Store a result for every case, those of test-backend-ops as passed."""
    verify(build, folder, only="[!t]*", executor=worker)
    with open_store(folder, "cpu.jsonl") as store:
        for unit in OP_UNITS:
            finding = Finding(case=unit.id, outcome="passed", n_checks=7)
            store.append({"schema": SCHEMA, "kind": "conformance-case", **asdict(finding)})


def test_the_report_says_what_passed_failed_and_was_refused(build: Build, tmp_path: Path) -> None:
    pairs = [case.id for case in all_cases() if isinstance(case, AttentionCase)]
    _everything(build, tmp_path, Worker({pairs[0]: "failed", pairs[1]: "unsupported"}))
    verified = verify(build, tmp_path, only=pairs[1], executor=Worker())
    text = report.render(verified)
    assert "1 failed, 1 are beyond what is promised and unsupported.**" in text
    assert f"- {pairs[0]}: because failed" in text
    assert "| f16/f16 | **FAILED** | – | ok |" in text
    assert "| FLASH_ATTN_EXT | K turbo4 | ok | 7 |" in text
    assert "t1" in text


def test_a_fault_that_was_not_seen_fails_the_run(build: Build, tmp_path: Path) -> None:
    _everything(build, tmp_path, Worker())
    with open_store(tmp_path, "cpu.jsonl") as store:
        store.append({"schema": SCHEMA, "kind": FAULT, "fault": "half of V", "caught": False, "by": ""})
    verified = verify(build, tmp_path, only=ROWS, executor=Worker())
    assert "| half of V | **NOT SEEN** |" in report.render(verified)
    with pytest.raises(ConformanceError, match="1 planted faults of cpu were not seen, the first: half of V"):
        verified.check()


def test_a_software_driver_is_named_as_such(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends.BACKENDS, "vulkan", backends.BACKENDS["cpu"])
    driver = Worker(device={"device": "Vulkan0", "description": "llvmpipe (LLVM 19.1.7, 256 bits)"})
    verified = verify(replace(build, backend="vulkan"), tmp_path, only=ROWS, executor=driver)
    assert "computed by a software driver on the CPU" in report.render(verified)
