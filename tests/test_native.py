"""The quantizers of a build, as its shared libraries give them."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import pytest

from turbobench import native
from turbobench.errors import BuildError, MeasurementError


def test_the_printed_error_is_read() -> None:
    assert native.parse(json.dumps({"nmse": 0.0065, "n_values": 4096}) + "\n") == (0.0065, 4096)


@pytest.mark.parametrize(
    "stdout", ["", "Segmentation fault", '{"nmse": NaN, "n_values": 64}', '{"nmse": -1, "n_values": 64}', "{}"]
)
def test_anything_but_a_finite_error_is_no_measurement(stdout: str) -> None:
    with pytest.raises(MeasurementError):
        native.parse(stdout)


def test_a_folder_without_the_libraries_is_no_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no shared library ggml-base"):
        native.NativeCodec(tmp_path)


def test_the_mirrored_struct_has_the_layout_of_the_c_one() -> None:
    # struct ggml_type_traits on an LP64 or LLP64 machine: pointer, two int64, size_t, bool and padding, two pointers.
    assert ctypes.sizeof(native._TypeTraits) == 56
    assert native._TypeTraits.to_float.offset == 40
