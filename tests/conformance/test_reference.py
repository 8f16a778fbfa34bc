"""The reference that devices are compared with: cache rows with everything in them, and attention by its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from turbobench.codec import types
from turbobench.conformance import reference
from turbobench.conformance.reference import Softmax
from turbobench.kvtypes import KV_TYPES

QUANTIZED = [name for name in KV_TYPES if name != "f32"]


@pytest.mark.parametrize("name", QUANTIZED)
def test_random_rows_have_the_size_of_the_type_and_about_the_magnitude_asked_for(name: str) -> None:
    rows = reference.random_rows(name, (3, 5, 128), np.random.default_rng(1), size=100.0)
    known = KV_TYPES[name]
    assert rows.shape == (3, 5, 128 // known.block * known.block_bytes)
    values = reference.decode_rows(name, rows)
    assert values.shape == (3, 5, 128)
    assert 50 < np.abs(values).max() <= 101
    assert (values > 0).any()
    assert (values < 0).any()


@pytest.mark.parametrize(("name", "levels"), [("turbo3", 8), ("turbo4", 16)])
def test_random_rows_have_every_entry_of_every_book_with_both_signs(name: str, levels: int) -> None:
    rows = reference.random_rows(name, (64, 4, 64), np.random.default_rng(1))
    blocks = rows.reshape(-1, KV_TYPES[name].block_bytes)
    bits = blocks[:, :2].copy().view("<u2")[:, 0]
    for book in range(8):
        for negative in (0, 1):
            of_book = blocks[(bits & 7 == book) & (bits >> 15 == negative)]
            scale = np.abs(of_book[:, :2].copy().view("<f2").astype(np.float32))
            entries = np.abs(reference.decode_rows(name, of_book)) / scale
            assert len(np.unique(np.rint(entries * 128))) >= levels / 2  # two entries may have one magnitude


def test_scales_go_through_all_finite_halves() -> None:
    data = types.every_scale("turbo4", 4096, np.random.default_rng(0))
    scales = data[:, :2].copy().view("<f2")
    assert np.isfinite(scales).all()
    assert scales.max() > 60000
    assert scales.min() == -65504
    assert ((np.abs(scales) < 6e-5) & (scales != 0)).any()


def test_the_fields_of_the_trellis_go_through_its_scales_and_start_states() -> None:
    fields = types.every_scale("turbo3t", 4096, np.random.default_rng(0))[:, :2].copy().view("<u2")[:, 0]
    scales = (fields >> 6 << 5).view("<f2").astype(np.float64)
    assert np.isfinite(scales).all()
    assert scales.max() > 60000
    assert scales.min() == 0
    assert len(np.unique(fields & 63)) == 64
    rows = reference.random_rows("turbo3t", (64, 8, 64), np.random.default_rng(1), size=3.0)
    peaks = reference.block_peaks("turbo3t", rows)
    assert 3.1 > peaks.max() > peaks.min() > 1.0
    starts = rows.reshape(-1, 26)[:, 0] & 63
    assert len(np.unique(starts)) == 64


@pytest.mark.parametrize("how", [
    Softmax(scale=0.125),
    Softmax(scale=0.125, max_bias=8.0),
    Softmax(scale=0.125, softcap=3.0),
    Softmax(scale=0.125, sinks=np.linspace(-2, 2, 6).astype(np.float32)),
], ids=["plain", "ALiBi", "softcap", "sinks"])  # fmt: skip
def test_attention_is_what_its_definition_says(how: Softmax) -> None:
    rng = np.random.default_rng(3)
    n_seq, n_q, n_kv, n_head, n_head_kv, d = 2, 3, 5, 6, 3, 4
    q = rng.standard_normal((n_seq, n_q, n_head, d), dtype=np.float32)
    k, v = (rng.standard_normal((n_seq, n_kv, n_head_kv, d), dtype=np.float32) for _ in range(2))
    mask = np.where(rng.random((n_seq, n_q, n_kv)) < 0.3, -np.inf, -rng.random((n_seq, n_q, n_kv))).astype(np.float32)
    mask[:, :, 0] = 0
    made = reference.attention(q, k, v, mask, how)
    # ALiBi's slopes of six heads: those of four, then every second of eight
    slopes = [2.0 ** -(2 * (h + 1)) for h in range(4)] + [2.0**-1, 2.0**-3] if how.max_bias else [1.0] * 6
    for s in range(n_seq):
        for i in range(n_q):
            for h in range(n_head):
                logits = []
                for j in range(n_kv):
                    x = how.scale * float(q[s, i, h].astype(float) @ k[s, j, h // 2].astype(float))
                    x = how.softcap * math.tanh(x / how.softcap) if how.softcap else x
                    logits.append(x + slopes[h] * float(mask[s, i, j]))
                weights = [math.exp(x) for x in logits]
                total = sum(weights) + (math.exp(float(how.sinks[h])) if how.sinks is not None else 0.0)
                wanted = sum(w * v[s, j, h // 2].astype(float) for j, w in enumerate(weights)) / total
                np.testing.assert_allclose(made[s, i, h], wanted, rtol=1e-12, atol=1e-14)


def test_peaks_are_those_of_blocks() -> None:
    values = np.arange(128, dtype=np.float32)
    peaks = reference.block_peaks("f16", reference.encode_floats("f16", values))
    np.testing.assert_array_equal(peaks, np.repeat([31, 63, 95, 127], 32))
