"""Checks of FLASH_ATTN_EXT on caches of any pair of types, as llama.cpp lays them out.

Two kinds. Against float64: random queries, masks, sequences, ALiBi, softcap, sinks. And probes, which see single
values: a mask that leaves one position gives back that row of V; one that leaves two positions, with a query along one
axis, gives the difference of two values of K by their weights. A probe sees a codebook entry that is off by one, which
moves an average over many positions by less than any usual bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from turbobench.conformance import reference
from turbobench.conformance.finding import Tally
from turbobench.conformance.reference import Bytes, Singles, Softmax
from turbobench.ggml import Device, Shape, UnsupportedError
from turbobench.kvtypes import KVPair

# Squared error relative to the energy of the output. Halves of V and of the weights alone give about 2e-7.
NMSE_BOUND = 1e-5
# The same where llama.cpp's own kernels run, which may add up in halves: its own bound.
UPSTREAM_BOUND = 5e-4
# A probe is wrong from half a codebook step on (an entry is a 127th of the block's largest value). Kernels that compute
# in halves were seen at a third of a step.
V_BOUND = 1 / (2 * 127)
K_BOUND = 1 / (2 * 127)
# Absolute error that is right for any V: halves are exact to 2^-25, and kernels that add up in halves give weights down
# to 2^-3 to the largest logit, so that sums do not overflow.
_V_SLACK = 2.0**-21
_LOGIT_RANGE = 1.5  # of a K probe: large enough to see a step, small enough for both weights to be seen
_LARGEST = 60000.0
_MASKED = np.float16(-np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The sizes of one call. `max_bias`, `softcap` and `sinks` are those of FLASH_ATTN_EXT."""

    n_q: int
    n_kv: int
    n_seq: int = 1
    n_head_kv: int = 2
    gqa: int = 4
    max_bias: float = 0.0
    softcap: float = 0.0
    sinks: bool = False

    @property
    def n_head(self) -> int:
        return self.n_head_kv * self.gqa

    def __str__(self) -> str:
        text = (
            f"{self.n_q} queries on {self.n_kv} positions, {self.n_seq} sequences, {self.n_head}/{self.n_head_kv} heads"
        )
        marks = [f"ALiBi {self.max_bias}"] * bool(self.max_bias) + [f"softcap {self.softcap}"] * bool(self.softcap)
        return ", ".join((text, *marks, *(["sinks"] * self.sinks)))


# One query, a few, too few for f16 scratch, and a prompt's; odd numbers of positions, whole tiles, and more positions
# than a kernel for short contexts takes.
PROBES = (
    Layout(n_q=1, n_kv=256, n_seq=32, n_head_kv=4, gqa=8),
    Layout(n_q=1, n_kv=259, n_seq=3, n_head_kv=1, gqa=1),
    Layout(n_q=1, n_kv=2048, n_seq=8, n_head_kv=4, gqa=8),
    Layout(n_q=3, n_kv=113, n_seq=4),
    Layout(n_q=24, n_kv=256, n_seq=1),
    Layout(n_q=65, n_kv=259, n_seq=2, gqa=2),
)
RANDOM = (
    Layout(n_q=1, n_kv=513, n_seq=3, gqa=8),
    Layout(n_q=1, n_kv=2048, n_head_kv=1, gqa=7),
    Layout(n_q=2, n_kv=256, n_seq=2, n_head_kv=3, gqa=1, sinks=True, softcap=10.0),
    Layout(n_q=12, n_kv=300, n_head_kv=3, gqa=2, max_bias=8.0),
    Layout(n_q=70, n_kv=512, n_seq=2, sinks=True),
    Layout(n_q=75, n_kv=259, n_seq=1, gqa=1, softcap=8.0),
)
# llama.cpp's GPU kernels may lack softcap at other head sizes than these, those of the models that use it.
_SOFTCAP_HEADS = (128, 256, 512)
# Head sizes for which GPUs have kernels only where query heads share a KV head and positions come in whole tiles.
WIDE_PROBES = (
    Layout(n_q=1, n_kv=256, n_seq=8, n_head_kv=2, gqa=8),
    Layout(n_q=3, n_kv=256, n_seq=2, n_head_kv=1, gqa=8),
    Layout(n_q=33, n_kv=256, n_seq=1, n_head_kv=1, gqa=8),
)
WIDE_RANDOM = (
    Layout(n_q=1, n_kv=512, n_seq=2, n_head_kv=1, gqa=8),
    Layout(n_q=40, n_kv=256, n_seq=1, n_head_kv=2, gqa=8),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """K and V as bytes [n_seq, n_kv, n_head_kv, row bytes], with their types and head sizes."""

    pair: KVPair
    head_k: int
    head_v: int
    k: Bytes
    v: Bytes


def check(device: Device, pair: KVPair, heads: tuple[int, int]) -> Tally:
    """Check a pair at head sizes (K, V): probes of single values, random input against float64, and extreme input."""
    tally = Tally()
    wide = heads[0] > 256 or heads[0] != heads[1]
    rng = np.random.default_rng((heads[0], *map(ord, str(pair))))
    probes = WIDE_PROBES if wide else PROBES
    for layout in probes:
        probe(device, tally, _random_caches(pair, heads, layout, rng), layout, rng)
    for layout in WIDE_RANDOM if wide else RANDOM:
        try:
            compare(device, tally, _random_caches(pair, heads, layout, rng), layout, rng)
        except UnsupportedError:
            if not layout.softcap or heads[0] in _SOFTCAP_HEADS:
                raise
    for layout in (probes[0], probes[-1]):  # one query, and a prompt
        extreme(device, tally, _random_caches(pair, heads, layout, rng), layout, rng)
    return tally


def compare(device: Device, tally: Tally, caches: Caches, layout: Layout, rng: np.random.Generator) -> None:
    """Compare random queries with float64, whole and head by head, so that one bad head is not averaged away."""
    q = rng.standard_normal((layout.n_seq, layout.n_q, layout.n_head, caches.head_k), dtype=np.float32) * 2
    mask = _random_mask(layout, rng)
    sinks = rng.uniform(-4, 4, layout.n_head).astype(np.float32) if layout.sinks else None
    how = Softmax(scale=caches.head_k**-0.5, max_bias=layout.max_bias, softcap=layout.softcap, sinks=sinks)
    k, v = reference.decode_rows(caches.pair.type_k, caches.k), reference.decode_rows(caches.pair.type_v, caches.v)
    wanted = reference.attention(q, k, v, mask.astype(np.float32), how)
    error = (run(device, caches, q, mask, how) - wanted) ** 2
    bound = UPSTREAM_BOUND if caches.pair.types == ("f16", "f16") else NMSE_BOUND
    tally.take("NMSE", float(error.sum() / (wanted**2).sum()), bound, str(layout))
    per_head = error.sum(axis=(0, 1, 3)) / (wanted**2).sum(axis=(0, 1, 3))
    tally.take("NMSE of a head", float(per_head.max()), 4 * bound, str(layout))


def probe(device: Device, tally: Tally, caches: Caches, layout: Layout, rng: np.random.Generator) -> None:
    """Read single values of V, and differences of two values of K, through attention; see the module."""
    _put_extreme_rows(caches, rng)
    places = _probed(layout, rng)
    mask = _mask_of(layout, places)
    k, v = (
        _rows_at(t, rows, places, layout)
        for t, rows in ((caches.pair.type_k, caches.k), (caches.pair.type_v, caches.v))
    )
    q, wanted_logit = _one_hot_queries(k, caches, layout, rng)
    how = Softmax(scale=caches.head_k**-0.5)
    out = run(device, caches, q, mask, how)
    single = places[..., 0] == places[..., 1]
    tally.take("V off, of its block", _worst_v(out, caches, layout, places, v, single), V_BOUND, f"probe: {layout}")
    if not single.all():
        tally.take("K off, of its range", _worst_k(out, v, wanted_logit, single), K_BOUND, f"probe: {layout}")


def extreme(device: Device, tally: Tally, caches: Caches, layout: Layout, rng: np.random.Generator) -> None:
    """With logits in the tens of thousands and one huge row, every output is finite and between the rows of V."""
    q = rng.standard_normal((layout.n_seq, layout.n_q, layout.n_head, caches.head_k), dtype=np.float32) * 3000
    q[..., ::7] = 0
    mask = _random_mask(layout, rng)
    out = run(device, caches, q, mask, Softmax(scale=1.0))
    v = np.repeat(reference.decode_rows(caches.pair.type_v, caches.v), layout.gqa, axis=2)
    low, high = v.min(axis=1, keepdims=True), v.max(axis=1, keepdims=True)
    slack = 1e-3 * np.maximum(np.abs(low), np.abs(high)) + 1e-6
    inside = (out >= low - slack) & (out <= high + slack)  # false for NaN
    tally.take("values out of range", int((~inside).sum()), 0, f"extreme queries: {layout}")


def run(device: Device, caches: Caches, q: Singles, mask: npt.NDArray[np.float16], how: Softmax) -> Singles:
    """Return attention of `q` [n_seq, n_q, n_head, head_k] on the device, [n_seq, n_q, n_head, head_v]."""
    n_seq, n_q, n_head, _ = q.shape
    with device.graph() as graph:
        row = 4 * caches.head_k
        base = graph.input("f32", (caches.head_k * n_head, n_q, n_seq, 1), q.tobytes())
        queries = graph.view(base, (caches.head_k, n_q, n_head, n_seq), (n_head * row, row, n_q * n_head * row))
        tensors = [queries]
        for type_name, head, data in (
            (caches.pair.type_k, caches.head_k, caches.k),
            (caches.pair.type_v, caches.head_v, caches.v),
        ):
            _, n_kv, n_head_kv, row = data.shape
            cache = graph.input(type_name, (head * n_head_kv, n_kv, n_seq, 1), data.tobytes())
            strides = (n_head_kv * row, row, n_kv * n_head_kv * row)
            tensors.append(graph.view(cache, (head, n_kv, n_head_kv, n_seq), strides))
        mask_shape: Shape = (mask.shape[2], n_q, 1, n_seq)
        masking = graph.input("f16", mask_shape, mask.tobytes())
        out = graph.attention(
            (tensors[0], tensors[1], tensors[2]), masking, scale=how.scale, max_bias=how.max_bias, softcap=how.softcap
        )
        if how.sinks is not None:
            graph.add_sinks(out, graph.input("f32", (n_head, 1, 1, 1), how.sinks.tobytes()))
        graph.compute(out)
        read = graph.read(out, 4 * n_seq * n_q * n_head * caches.head_v)
    return np.frombuffer(read, np.float32).reshape(n_seq, n_q, n_head, caches.head_v)


def _random_caches(pair: KVPair, heads: tuple[int, int], layout: Layout, rng: np.random.Generator) -> Caches:
    lead = (layout.n_seq, layout.n_kv, layout.n_head_kv)
    return Caches(
        pair=pair,
        head_k=heads[0],
        head_v=heads[1],
        k=reference.random_rows(pair.type_k, (*lead, heads[0]), rng),
        v=reference.random_rows(pair.type_v, (*lead, heads[1]), rng),
    )


def _random_mask(layout: Layout, rng: np.random.Generator) -> npt.NDArray[np.float16]:
    """Return a causal mask with holes; with ALiBi, of distances."""
    position = layout.n_kv - layout.n_q + np.arange(layout.n_q)[:, None] - np.arange(layout.n_kv)[None, :]
    mask = np.zeros((layout.n_seq, layout.n_q, layout.n_kv), np.float16)
    if layout.max_bias:
        mask[:] = -np.abs(position)
    mask[rng.random(mask.shape) < 0.2] = _MASKED
    mask[:, position < 0] = _MASKED
    mask[:, :, 0] = 0  # no row is left without a position
    return mask


def _probed(layout: Layout, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return two positions for each sequence and query, [n_seq, n_q, 2]; twice the same one for a probe of V.

    Positions 0 to 7 hold extreme rows, which only probes of V look at. The last position is always among those probed.
    """
    places = rng.integers(8, layout.n_kv, (layout.n_seq, layout.n_q, 2))
    flat = places.reshape(-1, 2)
    flat[flat[:, 0] == flat[:, 1], 1] = 8
    flat[0] = layout.n_kv - 1
    flat[2::2, 1] = flat[2::2, 0]
    flat[4:20:4] = np.arange(len(flat[4:20:4]))[:, None] % 8
    return places


def _mask_of(layout: Layout, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float16]:
    mask = np.full((layout.n_seq, layout.n_q, layout.n_kv), _MASKED)
    np.put_along_axis(mask, places, np.float16(0), axis=2)
    return mask


def _put_extreme_rows(caches: Caches, rng: np.random.Generator) -> None:
    """Fill positions 0 to 7 of V with zeros, the smallest and the largest values that the type holds."""
    shape = (caches.v.shape[0], 2, caches.v.shape[2], caches.head_v)
    caches.v[:, 0] = 0
    caches.v[:, 1:3] = reference.random_rows(caches.pair.type_v, shape, rng, size=2e-6)
    caches.v[:, 3:5] = reference.random_rows(caches.pair.type_v, shape, rng, size=1e-4)
    caches.v[:, 5:7] = reference.random_rows(caches.pair.type_v, shape, rng, size=_LARGEST)
    caches.v[:, 7:8] = reference.random_rows(caches.pair.type_v, shape, rng, size=500.0)[:, :1]


def _rows_at(type_name: str, rows: Bytes, places: npt.NDArray[np.int64], layout: Layout) -> Singles:
    """Return the values of the probed rows for every query head, [n_seq, n_q, 2, n_head, D]."""
    chosen = rows[np.arange(layout.n_seq)[:, None, None], places]
    return np.repeat(reference.decode_rows(type_name, chosen), layout.gqa, axis=3)


def _one_hot_queries(
    k: Singles, caches: Caches, layout: Layout, rng: np.random.Generator
) -> tuple[Singles, npt.NDArray[np.float64]]:
    """Return queries along one axis each, and the difference of the two logits that they give."""
    shape = (layout.n_seq, layout.n_q, layout.n_head)
    axis = rng.integers(0, caches.head_k, shape)
    length = (_LOGIT_RANGE * caches.head_k**0.5 * rng.choice([-1.0, 1.0], shape)).astype(np.float32)
    q = np.zeros((*shape, caches.head_k), np.float32)
    np.put_along_axis(q, axis[..., None], length[..., None], axis=3)
    difference = (k[:, :, 0] - k[:, :, 1]).astype(np.float64)
    along = np.take_along_axis(difference, axis[..., None], axis=3)[..., 0]
    return q, along * length * caches.head_k**-0.5


def _worst_v(
    out: Singles,
    caches: Caches,
    layout: Layout,
    places: npt.NDArray[np.int64],
    v: Singles,
    single: npt.NDArray[np.bool_],
) -> float:
    """Return the largest error of a value of V relative to the largest of its block; a tiny one counts as zero."""
    chosen = caches.v[np.arange(layout.n_seq)[:, None], places[..., 0]]
    peaks = np.repeat(reference.block_peaks(caches.pair.type_v, chosen), layout.gqa, axis=2)
    error = np.abs(out.astype(np.float64) - v[:, :, 0])[single]
    allowed = peaks[single] + _V_SLACK / V_BOUND
    worst = error / allowed
    return float(np.where(np.isfinite(worst), worst, np.inf).max())


def _worst_k(out: Singles, v: Singles, wanted_logit: npt.NDArray[np.float64], single: npt.NDArray[np.bool_]) -> float:
    """Return the largest error of a logit relative to the range of logits; weights come by least squares over V."""
    first, second = v[:, :, 0].astype(np.float64), v[:, :, 1].astype(np.float64)
    across = first - second
    weight = ((out - second) * across).sum(axis=-1) / np.maximum((across**2).sum(axis=-1), 1e-30)
    with np.errstate(divide="ignore", invalid="ignore"):
        logit = np.log(weight / (1 - weight))
    error = np.abs(logit - wanted_logit)[~single] / _LOGIT_RANGE
    return float(np.where(np.isfinite(error), error, np.inf).max())
