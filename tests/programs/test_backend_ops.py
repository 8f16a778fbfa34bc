"""test-backend-ops: every way in which it ends with code 0 without having compared anything is told from a pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench.errors import MeasurementError
from turbobench.programs import backend_ops
from turbobench.programs.backend_ops import OpRequest

DATA = Path(__file__).parent.parent / "data"
CPY = OpRequest(op="CPY", pattern="turbo4", device="CPU")


def _captured(name: str) -> str:
    return (DATA / f"test-backend-ops-{name}.stdout").read_text(encoding="utf-8")


def test_one_op_on_one_device_is_asked_for() -> None:
    assert backend_ops.argv(Path("bin/t"), CPY) == ["bin/t", "test", "-b", "CPU", "-o", "CPY", "-p", "turbo4"]


def test_every_case_is_read() -> None:
    cases = backend_ops.parse(_captured("ok"), CPY)
    assert [case.ending for case in cases] == ["OK"] * 4
    assert (cases[0].op, cases[0].param("type_src"), cases[0].param("type_dst")) == ("CPY", "f32", "turbo4")


def test_what_was_said_about_a_failure_is_kept() -> None:
    first, second, third = backend_ops.parse(_captured("fail"), CPY)
    assert [case.ending for case in (first, second, third)] == ["FAIL", "FAIL", "OK"]
    assert first.said == "[FLASH_ATTN_EXT] ERR = 0.984243702 > 0.000500000"
    assert (first.param("hsk"), first.param("type_K"), first.param("nb")) == ("64", "turbo4", "1")
    assert third.param("nb") == "40"


def test_a_refused_case_is_neither_passed_nor_failed() -> None:
    cases = backend_ops.parse(_captured("unsupported"), CPY)
    assert [case.ending for case in cases] == ["OK"] * 4 + ["not supported"] * 2


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("no-device", "CUDA0", "ran nothing on CUDA0; the devices that it found: CPU"),
        ("no-device", "CPU", "ran nothing on CPU"),  # it says `Skipping`
        ("ok", "CUDA0", "ran nothing on CUDA0"),
        ("no-case", "CPU", "compared no case"),
    ],
)
def test_a_run_that_compared_nothing_is_no_pass(name: str, device: str, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        backend_ops.parse(_captured(name), OpRequest(op="CPY", pattern="turbo", device=device))


def test_only_refusals_are_no_pass() -> None:
    refused = "\n".join(line for line in _captured("unsupported").splitlines() if "OK" not in line)
    with pytest.raises(MeasurementError, match=r"compared no case .*, 2 are not supported"):
        backend_ops.parse(refused, CPY)


@pytest.mark.parametrize("count", ["5/5", "3/4", ""])
def test_its_own_count_must_be_that_of_the_lines(count: str) -> None:
    text = _captured("ok").replace("  4/4 tests passed", f"  {count} tests passed" if count else "")
    with pytest.raises(MeasurementError, match="counts"):
        backend_ops.parse(text, CPY)
