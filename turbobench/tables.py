"""The tables of a report, made from tidy rows: values are rounded here and nowhere before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from turbobench.model import RANDOM_WEIGHTS
from turbobench.tidy import Row

Align = Literal["left", "right"]

_PAIRS_PER_TABLE = 6  # more columns wrap in a terminal and scroll on Reddit
_BASELINE = "f16"
_LEAST_ROUNDS = 3  # with two, Student's factor of 12.7 says more about the method than about the machine
_SUPERSCRIPT_FALLBACK = " (fallback)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A finished table: text cells, one alignment a column, and what a reader must know to trust it."""

    title: str
    headers: tuple[str, ...]
    aligns: tuple[Align, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Column:
    header: str
    render: Callable[[Row], str]
    align: Align = "right"


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the depth, quality and codec tables, as far as they apply, and the list of what went wrong."""
    found = [*_depth_tables(rows), *_quality_tables(rows), _codec_table(rows), _problem_table(rows)]
    return [table for table in found if table is not None]


def pair_name(row: Row) -> str:
    """Name a pair the short way: `turbo4` for turbo4/turbo4."""
    return str(row["type_k"]) if row["type_k"] == row["type_v"] else f"{row['type_k']}/{row['type_v']}"


def number(value: float | None, digits: int) -> str:
    """Render a figure with fixed digits; nothing measured is an en dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.000"


def _depth_tables(rows: Sequence[Row]) -> list[Table]:
    speed = [row for row in rows if row["kind"] == "speed"]
    tables: list[Table] = []
    for test in dict.fromkeys(row["test"] for row in speed):
        chosen = [row for row in speed if row["test"] == test]
        tables += [_depth_table(test, chosen, pairs) for pairs in _groups(chosen)]
    return tables


def _groups(rows: Sequence[Row]) -> list[list[str]]:
    """Split the pairs into groups that fit a screen, each led by the f16 baseline."""
    pairs = list(dict.fromkeys(pair_name(row) for row in rows))
    lead = [pair for pair in pairs if pair == _BASELINE]
    others = [pair for pair in pairs if pair != _BASELINE]
    most = _PAIRS_PER_TABLE - len(lead)
    size = math.ceil(len(others) / max(1, math.ceil(len(others) / most)))  # no lone column in the last table
    groups = [lead + others[i : i + size] for i in range(0, len(others), max(1, size))]
    return groups or [lead]


def _depth_table(test: str, rows: Sequence[Row], pairs: Sequence[str]) -> Table:
    at = {(row["n_depth"], pair_name(row)): row for row in rows}
    depths = sorted({row["n_depth"] for row in rows})
    what = "prompt processing" if rows[0]["path"] == "prefill" else "token generation"
    right: Align = "right"
    body = [(str(depth), *(_speed_text(at.get((depth, pair))) for pair in pairs)) for depth in depths]
    shown = [row for row in rows if pair_name(row) in pairs]
    return Table(
        title=f"{test}: {what}, tokens/s by context depth (times f16)",
        headers=("depth", *pairs),
        aligns=(right,) * (1 + len(pairs)),
        rows=tuple(body),
        notes=_speed_notes(shown),
    )


def _speed_text(row: Row | None) -> str:
    if row is None or row.get("tokens_per_s") is None:
        return "–" if row is None else str(row["disposition"])
    text = number(row["tokens_per_s"], 1)
    if row.get("placement") == "fallback":
        return text + _SUPERSCRIPT_FALLBACK
    ratio = row.get("ratio_f16")
    return text if ratio is None or pair_name(row) == _BASELINE else f"{text} ({ratio:.2f}×)"


def _speed_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    measured = [row for row in rows if row.get("tokens_per_s")]
    if not measured:
        return ()
    rounds = sorted({int(row["rounds"]) for row in measured})
    counts = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    threads = f"{measured[0]['threads']} thread{'s' if measured[0]['threads'] > 1 else ''}"
    where = threads if measured[0]["backend"] == "cpu" else str(measured[0]["device"])
    notes = [
        f"{where}; mean of {counts} interleaved rounds, ratios taken within a round."
        if rounds[-1] > 1
        else f"{where}; one round, so a difference of a few percent means nothing."
    ]
    widths = sorted(
        (row["ratio_f16_hi"] / row["ratio_f16_lo"]) ** 0.5 - 1
        for row in measured
        if row.get("ratio_f16_lo") and row["rounds"] >= _LEAST_ROUNDS and pair_name(row) != _BASELINE
    )
    if widths:
        notes.append(
            f"95 % intervals of the ratios: median ±{100 * widths[len(widths) // 2]:.0f} %, "
            f"widest ±{100 * widths[-1]:.0f} % (each in tidy.csv)."
        )
    if any(row["random_weights"] for row in measured):
        notes.append(f"The model has {RANDOM_WEIGHTS}.")
    return tuple(notes)


def _with_error(field: str, error: str, digits: int) -> Callable[[Row], str]:
    def render(row: Row) -> str:
        text = number(row.get(field), digits)
        margin = row.get(error)
        return text if margin is None or text == "–" else f"{text} ± {number(margin, digits)}"

    return render


def _plain(field: str, digits: int) -> Callable[[Row], str]:
    return lambda row: number(row.get(field), digits)


_QUALITY_COLUMNS = (
    _Column("K/V", lambda row: str(row["label"]), "left"),
    _Column("bits", _plain("bpv", 2)),
    _Column("KV MiB", _plain("kv_mib", 1)),
    _Column("PPL", _with_error("ppl", "ppl_err", 3)),
    _Column("KLD mean", _with_error("kld_mean", "kld_err", 5)),
    _Column("median", _plain("kld_median", 5)),
    _Column("99 %", _plain("kld_p99", 4)),
    _Column("99.9 %", _plain("kld_p999", 4)),
    _Column("max", _plain("kld_max", 3)),
    _Column("top-1 %", _with_error("same_top_pct", "same_top_err", 2)),
)


def _quality_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one table for each (n_ctx, path): figures of different contexts are not comparable."""
    quality = [row for row in rows if row["kind"] in ("quality", "floor") and row["disposition"] == "measured"]
    keys = dict.fromkeys((row["n_ctx"], row["chunks"], row["path"], row["weights"]) for row in quality)
    return [_quality_table(key, quality) for key in keys]


def _quality_table(key: tuple[int, int, str, str], rows: Sequence[Row]) -> Table:
    n_ctx, chunks, path, weights = key
    chosen = [row for row in rows if (row["n_ctx"], row["chunks"], row["path"], row["weights"]) == key]
    if any(row["kind"] == "floor" and pair_name(row) == _BASELINE for row in chosen):
        # The floor's row has the perplexity of f16 too.
        chosen = [row for row in chosen if not (row["test"] == "ppl" and pair_name(row) == _BASELINE)]
    labelled = [{**row, "label": _quality_label(row)} for row in chosen]
    columns = _QUALITY_COLUMNS
    expanded = "expanded to f16" if weights == "f16" else "as they are in the file"
    notes = [
        f"{chunks} chunks of {n_ctx} tokens, {path} path, weights {expanded}. KV MiB: the cache of {n_ctx} tokens. "
        "KLD in nats against f16 K/V; top-1: how often the likeliest token is the same; ±: standard error."
    ]
    floors = [row for row in chosen if row["kind"] == "floor"]
    notes += [
        f"Floor: {pair_name(row)} against the f16 base shows KLD {number(row['kld_mean'], 6)} "
        f"(maximum {number(row['kld_max'], 6)}); what is not above that cannot be told from f16."
        for row in floors
    ]
    return Table(
        title=f"Quality against f16 K/V at {n_ctx} tokens",
        headers=tuple(column.header for column in columns),
        aligns=tuple(column.align for column in columns),
        rows=tuple(tuple(column.render(row) for column in columns) for row in labelled),
        notes=tuple(notes),
    )


def _quality_label(row: Row) -> str:
    name = pair_name(row) + (" (floor)" if row["kind"] == "floor" else "")
    return name + (_SUPERSCRIPT_FALLBACK if row.get("placement") == "fallback" else "")


def _codec_table(rows: Sequence[Row]) -> Table | None:
    columns = (
        _Column("type", lambda row: str(row["type_k"]), "left"),
        _Column("bits", _plain("bpv", 2)),
        _Column("NMSE", _plain("nmse", 6)),
        _Column("SNR dB", lambda row: number(-10 * math.log10(row["nmse"]) if row["nmse"] > 0 else None, 2)),
    )
    chosen = [row for row in rows if row["kind"] == "nmse" and row["disposition"] == "measured"]
    if not chosen:
        return None
    return Table(
        title="Codec error on Gaussian values",
        headers=tuple(column.header for column in columns),
        aligns=tuple(column.align for column in columns),
        rows=tuple(tuple(column.render(row) for column in columns) for row in chosen),
        notes=(
            f"NMSE = Σ(x−y)²/Σx² over {chosen[0]['samples']:,} values of N(0,1), "
            "quantized by the code that fills the K/V cache of this build.",
        ),
    )


def _problem_table(rows: Sequence[Row]) -> Table | None:
    problems = [row for row in rows if row.get("reason")]
    if not problems:
        return None
    return Table(
        title="Cells that failed, were skipped, or could not be proven",
        headers=("K/V", "test", "depth", "state", "reason"),
        aligns=("left", "left", "right", "left", "left"),
        rows=tuple(
            (
                pair_name(row),
                str(row["test"]),
                "–" if row["n_depth"] is None else str(row["n_depth"]),
                str(row["disposition"] if row["disposition"] != "measured" else row.get("placement")),
                str(row["reason"]),
            )
            for row in problems
        ),
    )
