"""The generated C tables and the codebooks that they come from."""

from __future__ import annotations

import numpy as np
import pytest

from turbobench.codec import emit
from turbobench.codec.tables import BOOKS, CODEC_NAMES, Q_MAX, CodecName, codec
from turbobench.paths import kernels_dir

TYPES = pytest.mark.parametrize("name", CODEC_NAMES)


@pytest.mark.parametrize("name", emit.files())
def test_a_committed_table_is_what_the_codebooks_give(name: str) -> None:
    assert (kernels_dir() / name).read_text("utf-8") == emit.files()[name]


@TYPES
def test_books_ascend_and_end_at_127(name: CodecName) -> None:
    books = codec(name).books.astype(int)
    assert books.shape == (BOOKS, codec(name).levels)
    assert (np.diff(books, axis=1) > 0).all()
    assert (books[:, -1] == 127).all()
    assert books.min() >= -127  # so that a SIMD sign change cannot overflow


@TYPES
def test_every_book_has_a_candidate_and_sums_stay_within_int32(name: CodecName) -> None:
    assert {c.book for c in codec(name).search} == set(range(BOOKS))
    assert 64 * Q_MAX * 127 < 2**31


@TYPES
def test_bounds_are_the_midpoints_of_the_spread_book(name: CodecName) -> None:
    for candidate in codec(name).search:
        book = codec(name).books[candidate.book] / 127 * candidate.span
        bounds = codec(name).thresholds(candidate)
        np.testing.assert_allclose(bounds, (book[1:] + book[:-1]) / 2, atol=1)
        assert (np.diff(bounds.astype(int)) > 0).all()
