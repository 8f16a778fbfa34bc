from __future__ import annotations

import pytest

from turbobench import gpu
from turbobench.gpu import Gpu, PeakMemory


def _gpu(uuid: str, arch: str = "90") -> Gpu:
    return Gpu(name="A GPU", arch=arch, memory_mib=81559, driver="1", uuid=uuid)


FIRST, SECOND = _gpu("GPU-aa1"), _gpu("GPU-ab2", "89")


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        (None, (FIRST, SECOND)),
        ("1,0", (SECOND, FIRST)),
        ("GPU-ab", (SECOND,)),
        ("GPU-a", ()),  # fits two
        ("1,7,0", (SECOND,)),  # the driver stops at the first that is none
        ("", ()),
        ("-1", ()),
    ],
)
def test_only_the_gpus_that_a_program_would_see_are_left(chosen: str | None, left: tuple[Gpu, ...]) -> None:
    assert gpu.visible((FIRST, SECOND), chosen) == left


def test_an_architecture_is_compiled_for_once() -> None:
    assert gpu.archs((FIRST, SECOND, FIRST)) == ("90", "89")


def test_the_peak_is_the_rise_over_what_was_in_use_before() -> None:
    peak = PeakMemory({"a": 500.0, "b": 0.0})
    assert peak.mib is None
    for uuid, used in (("a", 700.0), ("a", 6500.0), ("a", 600.0), ("b", 10.0), ("another's", 9999.0)):
        peak.take(uuid, used)
    assert peak.mib == 6010.0


def test_a_label_says_what_can_be_told() -> None:
    assert FIRST.label == "A GPU (90, 80 GiB)"
    assert Gpu(name="AMD gfx1100", arch="gfx1100", memory_mib=None, driver="", uuid="").label == "AMD gfx1100 (gfx1100)"
