from __future__ import annotations

from pathlib import Path

import pytest

from tests import fake_tools
from turbobench.backends import BACKENDS, vulkan
from turbobench.doctor import Finding, Status, examine


def _of(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_a_new_machine_is_told_what_will_be_fetched(cache: Path) -> None:
    findings = examine()
    for name in ("source", "model", "backend cpu"):
        assert _of(findings, name).status is Status.ABSENT
        assert "turbobench" in _of(findings, name).mend


def test_looking_changes_nothing(cache: Path) -> None:
    examine()
    assert not cache.exists()


def test_a_missing_compiler_is_what_keeps_the_demo_from_running(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    findings = examine()
    assert _of(findings, "compiler").status is Status.MISSING
    assert _of(findings, "compiler").mend


def test_what_is_missing_always_comes_with_what_mends_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = examine()
    assert _of(findings, "git").status is Status.MISSING
    assert all(finding.mend for finding in findings if finding.status is Status.MISSING)


def test_every_backend_has_its_line(cache: Path) -> None:
    lines = [finding.name for finding in examine() if finding.name.startswith("backend ")]
    assert lines == [f"backend {name}" for name in BACKENDS]


def test_a_backend_for_which_there_is_no_device_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "unavailable", lambda: None)
    monkeypatch.setattr(vulkan, "gpus", lambda: ())
    assert "no device found here, but it can be compiled; not built yet" in _of(examine(), "backend vulkan").value


def test_a_backend_that_cannot_be_built_says_why(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.first_on_path(monkeypatch, tmp_path / "bin")
    fake_tools.script(tmp_path / "bin", "nvidia-smi", "exit 9")
    fake_tools.nvcc(tmp_path / "bin", 90)
    assert "--arch 90" in _of(examine(), "backend cuda").value
    assert _of(examine(), "backend hip").status is Status.ABSENT
