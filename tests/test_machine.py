"""What the machine says of itself."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from pathlib import Path

import pytest

from turbobench import machine


def test_the_machine_has_a_name_and_the_cores_this_process_may_use() -> None:
    found = machine.this_machine()
    assert found.cpu
    assert 1 <= found.cores <= (os.cpu_count() or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_work_of_this_machine_shows_as_busy_cores() -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            pass

    worker = threading.Thread(target=spin)
    worker.start()
    try:
        busy = machine.busy_cores(over_s=0.3)
    finally:
        stop.set()
        worker.join()
    assert busy is not None
    assert busy > 0.5


def test_a_container_without_any_id_stays_the_same_machine_until_the_next_boot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """uuid.getnode makes up another number in each process where no interface has an address."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("first\n")
    monkeypatch.setattr(machine, "_MACHINE_IDS", (tmp_path / "none",))
    monkeypatch.setattr(machine, "_BOOT_ID", boot_id)
    monkeypatch.setattr(uuid, "getnode", lambda: 1 << 40 | 1)
    first = machine.host_id()
    monkeypatch.setattr(uuid, "getnode", lambda: 1 << 40 | 2)
    assert machine.host_id() == first
    boot_id.write_text("second\n")
    assert machine.host_id() != first
    monkeypatch.setattr(uuid, "getnode", lambda: 1)
    address = machine.host_id()
    boot_id.write_text("third\n")
    assert machine.host_id() == address
