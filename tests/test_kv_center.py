"""The key center: which vector it is, at which lengths it serves, and the file it goes into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from turbobench.errors import MeasurementError
from turbobench.kv_center import (
    IDENTITY_KEYS,
    Center,
    LayerStatistics,
    Provenance,
    Statistics,
    context_lengths,
    energy_left,
    make_center,
    read_statistics,
    write_center,
)

_EDGES = np.array([0, 1, 64, 128, 256, 512, 1024, 2048, 3072, 4096])
_MADE_OF = Provenance(model_name="m", model_sha256="ab", text="t", text_sha256="cd")


def _statistics(mean_of_bins: np.ndarray, spread: float = 1.0) -> Statistics:
    """Return statistics of one layer with one head; `mean_of_bins` is [n_bins, head_dim]."""
    mean = mean_of_bins[:, None, :].astype(np.float64)
    layer = LayerStatistics(mean=mean, square=mean**2 + spread)
    return Statistics(identity=dict.fromkeys(IDENTITY_KEYS, "x"), edges=_EDGES, layers={3: layer})


def _bins(*channels: list[float]) -> np.ndarray:
    return np.array(channels).T


def test_a_mean_that_stays_is_taken_whole() -> None:
    stats = _statistics(_bins([9.0] + [2.0] * 8))
    center = make_center(stats)
    assert center.mean[3] == pytest.approx(np.array([[2.0]]))
    assert center.first[3] == pytest.approx(np.array([[9.0]]))
    assert energy_left(stats, center, 4096) == pytest.approx(1 / 5)


def test_the_first_token_does_not_move_the_mean() -> None:
    assert make_center(_statistics(_bins([1000.0] + [2.0] * 8))).mean[3] == pytest.approx(np.array([[2.0]]))


def test_a_channel_that_turns_over_gets_little() -> None:
    """Half of the longest context has the other sign than all of the shortest."""
    stats = _statistics(_bins([0.0] + [1.0] * 6 + [-1.0] * 2, [0.0] + [1.0] * 8))
    center = make_center(stats)
    assert abs(center.mean[3][0, 0]) < 0.7
    assert center.mean[3][0, 1] == pytest.approx(1.0)


def test_the_length_that_is_served_worst_is_served_best() -> None:
    angle = np.linspace(0, 2.5, 9)
    stats = _statistics(_bins(*(list(3 * np.cos(angle * speed)) for speed in (0.1, 0.5, 1.0, 2.0))))

    def worst(center: Center) -> float:
        return max(energy_left(stats, center, n) / least[n] for n in context_lengths(4096))

    least = {n: energy_left(stats, _mean_up_to(stats, n), n) for n in context_lengths(4096)}
    assert worst(make_center(stats)) < min(worst(_mean_up_to(stats, n)) for n in context_lengths(4096)) - 0.01


def _mean_up_to(stats: Statistics, n_ctx: int) -> Center:
    covered = np.clip(n_ctx - _EDGES[:-1], 0, np.diff(_EDGES))
    covered[0] = 0
    mean = {il: np.average(layer.mean, axis=0, weights=covered) for il, layer in stats.layers.items()}
    return Center(mean=mean, first={})


def test_every_octave_up_to_the_whole_is_served() -> None:
    assert context_lengths(3000) == [1024, 2048, 3000]
    assert context_lengths(256) == [256]


def test_the_file_says_what_it_was_made_of(tmp_path: Path) -> None:
    stats = _statistics(_bins([9.0] + [2.0] * 8, [0.0] * 9))
    path = tmp_path / "c.gguf"
    write_center(make_center(stats), stats, _MADE_OF, path)
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "kv-center"
    assert fields["kv_center.n_ctx"] == 4096
    assert fields["kv_center.model_sha256"] == "ab"
    assert {key: fields[key] for key in IDENTITY_KEYS} == stats.identity
    assert {tensor.name: tensor.data.tolist() for tensor in reader.tensors} == {
        "blk.3.k_center": [[2.0, 0.0]],
        "blk.3.k_first": [[9.0, 0.0]],
    }


def test_statistics_are_read_as_the_tool_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "s.gguf"
    writer = GGUFWriter(path, "llama")
    for key in IDENTITY_KEYS:
        writer.add_string(key, key.upper())
    writer.add_array("kv_center.bin_edges", [0, 1, 256])
    values = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    writer.add_tensor("blk.0.k_mean", values)
    writer.add_tensor("blk.0.k_sqr", values**2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stats = read_statistics(path)
    assert stats.n_ctx == 256
    assert stats.identity["kv_center.rope"] == "KV_CENTER.ROPE"
    np.testing.assert_array_equal(stats.layers[0].mean, values)
    np.testing.assert_array_equal(stats.layers[0].square, values**2)


def test_another_file_is_no_statistics(tmp_path: Path) -> None:
    stats = _statistics(_bins([0.0] * 9))
    write_center(make_center(stats), stats, _MADE_OF, tmp_path / "c.gguf")
    with pytest.raises(MeasurementError, match="holds no statistics of K"):
        read_statistics(tmp_path / "c.gguf")
