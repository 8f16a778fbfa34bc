"""The training: that it does make better books, from a start that is not good (the whole of it takes minutes)."""

from __future__ import annotations

import numpy as np
import pytest

from turbobench.codec import train
from turbobench.codec.block import nmse
from turbobench.codec.tables import Q_MAX, Candidate, Codec, CodecName


def test_a_short_training_betters_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for stage, steps in (("TRAIN_BLOCKS", 512), ("GRID_STAGE", 4), ("JOINT_STAGE", 6), ("SPAN_STAGE", 2)):
        monkeypatch.setattr(train, stage, steps)
    name: CodecName = "turbo3"
    books, tries = train.train(name)
    search = tuple(Candidate(book=t.book, flip=t.flip, span=round(t.span * Q_MAX)) for t in tries)
    assert len(search) == train.SEARCH
    x = np.random.default_rng(1).standard_normal((2048, 64))
    assert nmse(Codec(name=name, bits=3, books=books, search=search), x) < 0.0262  # one signed table: .0270
