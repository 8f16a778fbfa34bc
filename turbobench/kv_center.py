"""The key center: from the statistics of K that llama-kv-center measures to the file that `--kv-center` takes.

Softmax ignores a constant added to all logits of a query, so one vector per layer and KV head can be subtracted from
every K before it is quantized. Which vector is best depends on the positions that a context has: RoPE turns the slow
channels by less than a full turn, so their mean drifts with position, and that of a short text is wrong at depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFWriter

from turbobench import gguf_header
from turbobench.errors import ConfigError, MeasurementError, ModelError
from turbobench.paths import atomic_path

Floats = npt.NDArray[np.float64]

FILE_TYPE = "kv-center"
# What the native part writes, and checks when it reads the file (llama-kv-center.cpp).
IDENTITY_KEYS = ("kv_center.architecture", "kv_center.layers", "kv_center.rope", "kv_center.weights")
_SHORTEST = 1024  # contexts shorter than this are cheap to keep in f16, and the compromise need not be theirs
_ROUNDS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """Mean and mean square of K after RoPE, each [n_bins, n_head_kv, head_dim]."""

    mean: Floats
    square: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What llama-kv-center measured: bin i holds the positions from `edges[i]` up to `edges[i + 1]`, bin 0 the first.

    `identity` is what a model and a context must have for the file to fit them.
    """

    identity: dict[str, str]
    edges: npt.NDArray[np.int64]
    layers: dict[int, LayerStatistics]

    @property
    def n_ctx(self) -> int:
        return int(self.edges[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Center:
    """The vectors to subtract, and what the first token's K is; both [n_head_kv, head_dim] for each layer."""

    mean: dict[int, Floats]
    first: dict[int, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a center was made of, for whoever finds the file."""

    model_name: str
    model_sha256: str
    text: str
    text_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a center's file says of itself."""

    architecture: str
    text: str
    text_sha256: str


def read_header(path: Path) -> Header:
    """Read what a center's file says of itself; ConfigError if it is not one."""
    try:
        told = gguf_header.read_header(path).metadata
        if told.get("general.type") != FILE_TYPE:
            raise ModelError(f"its general.type is {told.get('general.type', 'missing')}")
        return Header(
            architecture=str(told["kv_center.architecture"]),
            text=str(told["kv_center.text"]),
            text_sha256=str(told["kv_center.text_sha256"]),
        )
    except (ModelError, KeyError) as failure:
        raise ConfigError(
            f"{path} is no file of K's means: {failure}", "make one with 'turbobench calibrate'"
        ) from failure


def read_statistics(path: Path) -> Statistics:
    """Read the file of llama-kv-center; MeasurementError if it is not one."""
    try:
        reader = GGUFReader(path)
        names = {tensor.name: np.array(tensor.data, dtype=np.float64) for tensor in reader.tensors}
        layers = {
            int(name.split(".")[1]): LayerStatistics(mean=values, square=names[name.replace("k_mean", "k_sqr")])
            for name, values in names.items()
            if name.endswith(".k_mean")
        }
        return Statistics(
            identity={key: str(reader.fields[key].contents()) for key in IDENTITY_KEYS},
            edges=np.array(reader.fields["kv_center.bin_edges"].contents(), dtype=np.int64),
            layers=dict(sorted(layers.items())),
        )
    except (OSError, ValueError, KeyError, IndexError) as failure:
        raise MeasurementError(
            f"{path} holds no statistics of K: {failure}", "it is what llama-kv-center writes"
        ) from failure


def context_lengths(n_ctx: int) -> list[int]:
    """Return the context lengths that a center must serve: every octave from 1024 to `n_ctx`, and `n_ctx` itself."""
    lengths = [_SHORTEST << i for i in range(n_ctx.bit_length()) if _SHORTEST << i < n_ctx]
    return [*lengths, n_ctx]


def make_center(stats: Statistics) -> Center:
    """Return the center that serves every context length from 1024 to the measured one.

    For one length the best vector is the mean over its positions. The vector returned is the weighted mean of those
    for which the length that is served worst is served best: it leaves the least energy, as a ratio to what the best
    vector for that length leaves. Slow channels that drift thereby get a small value, or none.
    """
    shares = np.array([_shares(stats.edges, length) for length in context_lengths(stats.n_ctx)])
    return Center(
        mean={il: _compromise(layer, shares) for il, layer in stats.layers.items()},
        first={il: layer.mean[0] for il, layer in stats.layers.items()},
    )


def energy_left(stats: Statistics, center: Center, n_ctx: int) -> float:
    """Return the share of K's energy over positions up to `n_ctx` that is left, as a mean over layers and heads."""
    shares = _shares(stats.edges, n_ctx)
    left = []
    for il, layer in stats.layers.items():
        before = np.einsum("b,bhd->h", shares, layer.square)
        after = before + np.einsum("b,bhd->h", shares, center.mean[il] ** 2 - 2 * center.mean[il] * layer.mean)
        left.append(after / before)
    return float(np.mean(left))


def write_center(center: Center, stats: Statistics, made_of: Provenance, path: Path) -> None:
    """Write the file that `--kv-center` takes; it appears whole, or not at all."""
    writer = GGUFWriter(None, stats.identity["kv_center.architecture"])
    writer.add_type(FILE_TYPE)
    writer.add_name(f"mean keys of {made_of.model_name}")
    for key, value in stats.identity.items():
        writer.add_string(key, value)
    writer.add_uint32("kv_center.n_ctx", stats.n_ctx)
    writer.add_string("kv_center.model_sha256", made_of.model_sha256)
    writer.add_string("kv_center.text", made_of.text)
    writer.add_string("kv_center.text_sha256", made_of.text_sha256)
    for name, vectors in (("k_center", center.mean), ("k_first", center.first)):
        for il, vector in vectors.items():
            writer.add_tensor(f"blk.{il}.{name}", vector.astype(np.float32))
    with atomic_path(path) as part:
        writer.write_header_to_file(part)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _compromise(layer: LayerStatistics, shares: Floats) -> Floats:
    """Return the minimax vector [n_head_kv, head_dim]; `shares` is [n_lengths, n_bins].

    The energy left is a convex parabola in the vector for each length, so the solution is a mean of the lengths' own
    best vectors, and multiplicative weights find it: a length that is served badly gains weight.
    """
    mean = np.einsum("lb,bhd->lhd", shares, layer.mean)
    energy = np.einsum("lb,bhd->lh", shares, layer.square)
    least = energy - (mean**2).sum(axis=-1)
    weight = total = np.full(least.shape, 1 / len(shares))
    for step in range(_ROUNDS):
        value = _mix(weight, mean, least)
        left = energy - 2 * np.einsum("hd,lhd->lh", value, mean) + (value**2).sum(axis=-1)
        weight = weight * np.exp(2 * np.log(left / least) / np.sqrt(1 + step))
        weight = weight / weight.sum(axis=0)
        total = total + weight
    return _mix(total, mean, least)


def _mix(weight: Floats, mean: Floats, least: Floats) -> Floats:
    share = weight / least
    return np.asarray(np.einsum("lh,lhd->hd", share / share.sum(axis=0), mean))


def _shares(edges: npt.NDArray[np.int64], n_ctx: int) -> Floats:
    """Return how much of a context of `n_ctx` positions lies in each bin, without the first token."""
    covered = np.clip(n_ctx - edges[:-1], 0, np.diff(edges)).astype(np.float64)
    covered[0] = 0
    return np.asarray(covered / covered.sum())
