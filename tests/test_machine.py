"""What the machine says of itself."""

from __future__ import annotations

import os
import sys
import threading

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
