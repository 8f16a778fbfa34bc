"""The tables of a report, made from tidy rows: values are rounded here and nowhere before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from turbobench.model import RANDOM_WEIGHTS
from turbobench.quality_tables import quality_tables
from turbobench.table import Align, Column, Table, number, pair_name, plain, table
from turbobench.tidy import Row

_PAIRS_PER_TABLE = 6  # more columns wrap in a terminal and scroll on Reddit
_BASELINE = "f16"
_LEAST_ROUNDS = 3  # with two, Student's factor of 12.7 says more about the method than about the machine
_SUPERSCRIPT_FALLBACK = " (fallback)"
_UNSURE = "?"
_WIDE = 1.5  # of an interval's end to its beginning


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """Return the depth, quality and codec tables, as far as they apply, and the list of what went wrong."""
    found = [
        *_depth_tables(rows),
        *quality_tables(rows),
        *_needle_tables(rows),
        _codec_table(rows),
        _problem_table(rows),
    ]
    return [table for table in found if table is not None]


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
    text = number(row["tokens_per_s"], 1) + _unsure(row, "tokens_per_s")
    if row.get("placement") == "fallback":
        return text + _SUPERSCRIPT_FALLBACK
    ratio = row.get("ratio_f16")
    return text if ratio is None or pair_name(row) == _BASELINE else f"{text} ({ratio:.2f}×{_unsure(row, 'ratio_f16')})"


def _unsure(row: Row, figure: str) -> str:
    """Return a mark for a figure whose rounds disagree so much that its mean says little."""
    lo, hi = row.get(f"{figure}_lo"), row.get(f"{figure}_hi")
    return _UNSURE if row["rounds"] >= _LEAST_ROUNDS and lo is not None and not hi < _WIDE * lo else ""


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
        else f"{where}; one round, so there is no interval, and small differences mean nothing."
    ]
    notes += _interval_notes([row for row in measured if row.get("ratio_f16_lo") and pair_name(row) != _BASELINE])
    if any(_unsure(row, figure) for row in measured for figure in ("tokens_per_s", "ratio_f16")):
        notes.append(
            f"{_UNSURE}: rounds disagree, so that the ends of the 95 % interval are a factor of {_WIDE} or more apart; "
            f"what has fewer than {_LEAST_ROUNDS} rounds is not marked."
        )
    if any(row["random_weights"] for row in measured):
        notes.append(f"The model has {RANDOM_WEIGHTS}.")
    return tuple(notes)


def _interval_notes(rows: Sequence[Row]) -> list[str]:
    """Say how wide the intervals are, and for which depths that holds."""
    known = [row for row in rows if row["rounds"] >= _LEAST_ROUNDS]
    if not known:
        return []
    widths = sorted((row["ratio_f16_hi"] / row["ratio_f16_lo"]) ** 0.5 - 1 for row in known)
    text = (
        f"95 % intervals of the ratios: median ±{100 * widths[len(widths) // 2]:.0f} %, "
        f"widest ±{100 * widths[-1]:.0f} % (each in tidy.csv)"
    )
    short = [row for row in rows if row["rounds"] < _LEAST_ROUNDS]
    depths = sorted({row["n_depth"] for row in known})
    if any(row["n_depth"] in depths for row in short):
        cells = ", ".join(f"{pair_name(row)} at depth {row['n_depth']}" for row in short)
        text += f", but for {cells}: fewer than {_LEAST_ROUNDS} rounds"
    elif short:
        text += f", at depth {', '.join(map(str, depths))} alone: the others have fewer than {_LEAST_ROUNDS} rounds"
    return [text + "."]


def _needle_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one table for each length of prompt and number of keys."""
    found = [row for row in rows if row["kind"] == "niah" and row["disposition"] == "measured"]
    columns = (
        Column("K/V", pair_name, "left"),
        Column("bits", plain("bpv", 2)),
        Column("found %", plain("needles_found_pct", 1)),
        Column("f16 %", plain("needles_f16_pct", 1)),
        Column("lost", plain("needles_lost", 0)),
        Column("won", plain("needles_won", 0)),
        Column("p", plain("needles_p", 3)),
        Column("against f16", lambda row: str(row.get("verdict") or "–"), "left"),
    )
    tables = []
    for n_ctx, keys in dict.fromkeys((row["n_ctx"], row["keys"]) for row in found):
        chosen = [row for row in found if (row["n_ctx"], row["keys"]) == (n_ctx, keys)]
        what = "one key" if keys == 1 else f"one of {keys} keys"
        note = (
            f"{chosen[0]['needles']} prompts of {n_ctx} tokens, the same for all pairs: several positions and seeds. "
            "Lost: found with f16 and not with the pair; won: the other way round; p: McNemar's exact test."
        )
        tables.append(table(f"Needle in a haystack: {what} in {n_ctx} tokens", columns, chosen, (note,)))
    return tables


def _codec_table(rows: Sequence[Row]) -> Table | None:
    columns = (
        Column("type", lambda row: str(row["type_k"]), "left"),
        Column("bits", plain("bpv", 2)),
        Column("NMSE", plain("nmse", 6)),
        Column("SNR dB", lambda row: number(-10 * math.log10(row["nmse"]) if row["nmse"] > 0 else None, 2)),
    )
    chosen = [row for row in rows if row["kind"] == "nmse" and row["disposition"] == "measured"]
    if not chosen:
        return None
    note = (
        f"NMSE = Σ(x−y)²/Σx² over {chosen[0]['samples']:,} values of N(0,1), "
        "quantized by the code that fills the K/V cache of this build."
    )
    return table("Codec error on Gaussian values", columns, chosen, (note,))


def _problem_table(rows: Sequence[Row]) -> Table | None:
    problems = [row for row in rows if row.get("reason") and row["kind"] != "bucket"]
    if not problems:
        return None
    columns = (
        Column("K/V", pair_name, "left"),
        Column("test", lambda row: str(row["test"]), "left"),
        Column("depth", lambda row: "–" if row["n_depth"] is None else str(row["n_depth"])),
        Column("state", _state, "left"),
        Column("reason", lambda row: str(row["reason"]), "left"),
    )
    return table("Cells that failed, were skipped, or could not be proven", columns, problems)


def _state(row: Row) -> str:
    return str(row["disposition"] if row["disposition"] != "measured" else row.get("placement"))
