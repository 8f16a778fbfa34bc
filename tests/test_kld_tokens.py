"""What is read out of the KLD of single tokens, and which files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from turbobench import kld_tokens
from turbobench.errors import MeasurementError
from turbobench.kld_tokens import TokenKld

N_CTX, CHUNKS = 512, 3
SCORED = 255


def values() -> npt.NDArray[np.float32]:
    """Return values that rise with the position, and more in later chunks."""
    position = np.tile(np.linspace(0, 1, SCORED), CHUNKS)
    chunk = np.repeat(np.arange(CHUNKS), SCORED)
    return (0.01 + 0.02 * position + 0.03 * chunk).astype("<f4")


def read(path: Path, content: npt.NDArray[np.float32], mean: float | None = None) -> TokenKld:
    content.tofile(path)
    printed = float(content.mean(dtype=np.float64)) if mean is None else mean
    return kld_tokens.read(path, n_ctx=N_CTX, chunks=CHUNKS, printed_mean=printed)


def test_buckets_are_the_quarters_of_the_scored_half_over_all_chunks(tmp_path: Path) -> None:
    found = read(tmp_path / "t", values())
    assert [(part.pos_lo, part.pos_hi) for part in found.buckets] == [(256, 319), (320, 383), (384, 446), (447, 510)]
    assert sum(part.n for part in found.buckets) == CHUNKS * SCORED
    first = values().reshape(CHUNKS, SCORED)[:, :64]
    assert found.buckets[0].kld_mean == pytest.approx(first.mean())
    assert found.buckets[0].kld_err == pytest.approx(first.std() / np.sqrt(first.size - 1))


def test_chunks_are_separate_and_pool_to_the_whole(tmp_path: Path) -> None:
    found = read(tmp_path / "t", values())
    assert [part.kld_mean for part in found.chunks] == pytest.approx([0.02, 0.05, 0.08])
    parts: list[dict[str, Any]] = [{"n": p.n, "kld_mean": p.kld_mean, "kld_err": p.kld_err} for p in found.chunks]
    mean, error = kld_tokens.pooled(parts)
    exact = values().astype(np.float64)
    assert mean == pytest.approx(exact.mean())
    assert error == pytest.approx(exact.std() / np.sqrt(exact.size - 1))
    assert kld_tokens.pooled(parts[:1])[0] == pytest.approx(0.02)


def test_runs_are_means_of_32_tokens_in_each_chunk(tmp_path: Path) -> None:
    content = values()
    runs = read(tmp_path / "tokens", content).runs
    assert [len(chunk) for chunk in runs] == [8] * CHUNKS  # 255 tokens: the last run has 31
    table = content.reshape(CHUNKS, SCORED)
    assert runs[1][0] == pytest.approx(table[1, :32].mean(), rel=1e-4)
    assert runs[2][-1] == pytest.approx(table[2, 224:].mean(), rel=1e-4)


def test_the_difference_of_two_paths_is_known_better_than_either() -> None:
    one = ((0.1, 0.9, 0.2), (0.5, 0.1, 0.8))
    other = ((0.11, 0.91, 0.21), (0.51, 0.11, 0.81))
    assert kld_tokens.difference_error(one, other) == pytest.approx(0.0, abs=1e-12)
    assert kld_tokens.difference_error(((0.0, 0.2),), ((0.1, 0.1),)) == pytest.approx(0.1)


def test_the_fingerprint_tells_one_changed_token_from_none(tmp_path: Path) -> None:
    other = values()
    other[100] = np.nextafter(other[100], np.float32(1))
    one, same, changed = (read(tmp_path / "t", content).fingerprint for content in (values(), values(), other))
    assert one == same != changed


def test_a_value_that_is_no_number_is_refused_with_its_place(tmp_path: Path) -> None:
    broken = values()
    broken[SCORED + 4] = np.nan
    with pytest.raises(MeasurementError, match="token 260 of chunk 2 is nan"):
        read(tmp_path / "t", broken, mean=0.05)


def test_a_file_of_fewer_chunks_or_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="764 tokens, not of 3 × 255"):
        read(tmp_path / "t", values()[:-1])
    with pytest.raises(MeasurementError, match="the log says 0\\.060000"):
        read(tmp_path / "t", values(), mean=0.06)
    with pytest.raises(MeasurementError, match="no KLD of single tokens"):
        kld_tokens.read(tmp_path / "none", n_ctx=N_CTX, chunks=CHUNKS, printed_mean=0.05)
