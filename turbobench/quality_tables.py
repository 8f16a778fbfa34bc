"""The tables of what a cache type costs in quality: by type, by position, by path, and by byte."""

from __future__ import annotations

from collections.abc import Sequence

from turbobench import pareto
from turbobench.quality_gate import compare_paths, twins
from turbobench.table import Column, Table, number, pair_name, plain, table, with_error
from turbobench.tidy import Row

_FALLBACK = " (fallback)"
_COLUMNS = (
    Column("K/V", lambda row: str(row["label"]), "left"),
    Column("bits", plain("bpv", 2)),
    Column("KV MiB", plain("kv_mib", 1)),
    Column("PPL", with_error("ppl", "ppl_err", 3)),
    Column("KLD mean", with_error("kld_mean", "kld_err", 5)),
    Column("median", plain("kld_median", 5)),
    Column("95 %", plain("kld_p95", 4), dispensable=True),
    Column("99 %", plain("kld_p99", 4)),
    Column("99.9 %", plain("kld_p999", 4)),
    Column("max", plain("kld_max", 3)),
    Column("RMS Δp %", with_error("rms_dp_pct", "rms_dp_err", 2), dispensable=True),
    Column("top-1 %", with_error("same_top_pct", "same_top_err", 2)),
)

_Setting = tuple[int, int, str, str]  # n_ctx, chunks, path, weights: figures of different ones are not comparable


def quality_tables(rows: Sequence[Row]) -> list[Table]:
    """Return all tables of quality that the rows allow."""
    measured = [row for row in rows if row["disposition"] == "measured"]
    quality = [row for row in measured if row["kind"] in ("quality", "floor")]
    settings = list(dict.fromkeys(map(_setting, quality)))
    found = [_quality_table(setting, _of(setting, quality)) for setting in settings]
    found += [_pareto_table(title, chosen) for _, title, chosen in pareto_settings(rows)]
    buckets = [row for row in measured if row["kind"] == "bucket" and row["path"] == "prefill"]
    found += [_position_table(setting, _of(setting, buckets)) for setting in dict.fromkeys(map(_setting, buckets))]
    return [*found, *_path_tables(measured)]


def pareto_settings(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Return a file name's stem, a title and the rows of each setting in which several pairs compete by their bytes.

    These are types on the prompt's path that ran as asked.
    """
    chosen = [
        row
        for row in rows
        if (row["kind"], row["test"], row["path"]) == ("quality", "kld", "prefill")
        and row["disposition"] == "measured"
        and row.get("placement") != "fallback"
    ]
    found = []
    for setting in dict.fromkeys(map(_setting, chosen)):
        competing = _of(setting, chosen)
        if len(competing) > 1:
            stem = f"{setting[0]}" + ("" if setting[3] == "f16" else f"-{setting[3]}")
            found.append((stem, f"Quality by byte at {where(setting)}", competing))
    return found


def points(rows: Sequence[Row]) -> list[pareto.Point]:
    """Return the rows as points of the byte-Pareto front."""
    return [
        pareto.Point(name=pair_name(row), bpv=row["bpv"], kld=row["kld_mean"], kld_err=row["kld_err"]) for row in rows
    ]


def where(setting: _Setting) -> str:
    """Say in words what a table's figures share beyond the number of chunks."""
    n_ctx, _, path, weights = setting
    return (
        f"{n_ctx} tokens" + (", decode path" if path == "decode" else "") + (", weights as given" * (weights != "f16"))
    )


def _setting(row: Row) -> _Setting:
    return (row["n_ctx"], row["chunks"], row["path"], row["weights"])


def _of(setting: _Setting, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if _setting(row) == setting]


def _quality_table(setting: _Setting, rows: Sequence[Row]) -> Table:
    n_ctx, chunks, path, weights = setting
    floors = [row for row in rows if row["kind"] == "floor"]
    if any(pair_name(row) == "f16" for row in floors):
        # The floor's row has the perplexity of f16 too.
        rows = [row for row in rows if row["test"] != "ppl"]
    expanded = "expanded to f16" if weights == "f16" else "as they are in the file"
    notes = [
        f"{chunks} chunk{'s' * (chunks > 1)} of {n_ctx} tokens, {path} path, weights {expanded}. "
        f"KV MiB: the cache of {n_ctx} tokens. KLD in nats against f16 K/V on the prefill path; "
        "top-1: how often the likeliest token is the same; Δp: change of the right token's probability; "
        "±: standard error."
    ]
    notes += [
        f"Floor: {pair_name(row)}{_change(row)} against the f16 base shows KLD {number(row['kld_mean'], 6)} "
        f"(maximum {number(row['kld_max'], 6)}); what is not above that cannot be told from f16."
        for row in floors
    ]
    labelled = [{**row, "label": _label(row)} for row in rows]
    return table(f"Quality against f16 K/V at {where(setting)}", _COLUMNS, labelled, notes)


def _change(row: Row) -> str:
    """Say what else than the type is different in a floor."""
    if row["path"] == "decode":
        return " through the decode kernels"
    if pair_name(row) == "f32":
        return " without flash attention"
    return f" in batches of {row['n_ubatch']}" if pair_name(row) == "f16" and row.get("n_ubatch") != 512 else ""


def _label(row: Row) -> str:
    name = pair_name(row) + (" (floor)" if row["kind"] == "floor" else "")
    return name + (_FALLBACK if row.get("placement") == "fallback" else "")


def _pareto_table(title: str, rows: Sequence[Row]) -> Table:
    placed = pareto.place(points(rows))
    lines: list[Row] = [
        {
            "bpv": place.point.bpv,
            "name": place.point.name,
            "kld": place.point.kld,
            "err": place.point.kld_err,
            "front": "●" if place.on_front else "",
            "by": ", ".join(name + ("" if name in place.clearly else " ~") for name in place.dominated_by),
        }
        for place in placed
    ]
    columns = (
        Column("bits", plain("bpv", 2)),
        Column("K/V", lambda row: str(row["name"]), "left"),
        Column("KLD mean", with_error("kld", "err", 5)),
        Column("front", lambda row: str(row["front"]), "left"),
        Column("dominated by", lambda row: str(row["by"]), "left", dispensable=True),
    )
    notes = (
        "● is on the front: no pair has both no more bits and no more KLD. Dominated by: every pair that has, the best "
        "first; ~ after one whose KLD is lower by less than two standard errors.",
    )
    return table(title, columns, lines, notes)


def _position_table(setting: _Setting, rows: Sequence[Row]) -> Table:
    ranges = sorted({(row["pos_lo"], row["pos_hi"]) for row in rows})
    at = {(row["label"], row["pos_lo"]): row for row in ({**row, "label": pair_name(row)} for row in rows)}
    names = dict.fromkeys(name for name, _ in at)
    lines: list[Row] = [{"label": name, **{str(lo): at.get((name, lo), {}) for lo, _ in ranges}} for name in names]

    def cell(lo: int) -> Column:
        render = with_error("kld_mean", "kld_err", 5)
        hi = dict(ranges)[lo]
        return Column(f"{lo}–{hi}", lambda row: render(row[str(lo)]))

    first, last = str(ranges[0][0]), str(ranges[-1][0])
    columns = (
        Column("K/V", lambda row: str(row["label"]), "left"),
        *(cell(lo) for lo, _ in ranges),
        Column("last / first", lambda row: _ratio(row[first].get("kld_mean"), row[last].get("kld_mean"))),
    )
    notes = ("Mean KLD in nats of the tokens at these positions of a window; its first half is not scored.",)
    return table(f"KLD by position at {where(setting)}", columns, lines, notes)


def _ratio(first: float | None, last: float | None) -> str:
    return "–" if not first or last is None or min(first, last) < 1e-5 else number(last / first, 2)


def _path_tables(rows: Sequence[Row]) -> list[Table]:
    compared, same = compare_paths(rows), twins(rows)
    found: list[Table] = []
    if compared:
        lines: list[Row] = [
            {
                "name": pair.name,
                "n_ctx": pair.n_ctx,
                "chunks": pair.chunks,
                "prefill": pair.prefill,
                "decode": pair.decode,
                "difference": pair.decode - pair.prefill,
                "allowed": pair.allowed,
                "verdict": "equal" if pair.agrees else "DIFFERS",
            }
            for pair in compared
        ]
        columns = (
            Column("K/V", lambda row: str(row["name"]), "left"),
            Column("tokens", lambda row: f"{row['chunks']} × {row['n_ctx']}"),
            *(Column(name, plain(name, 5)) for name in ("prefill", "decode", "difference", "allowed")),
            Column("within error", lambda row: str(row["verdict"]), "left"),
        )
        notes = (
            "Mean KLD of the same chunks through the prompt's path and, a token at a time, through the decode kernels. "
            "Allowed: three standard errors of the difference, and what the decode path does to f16.",
        )
        found.append(table("Decode kernels against prefill", columns, lines, notes))
    if same:
        pairs: list[Row] = [{"one": one, "other": other} for one, other in same]
        columns = tuple(Column(name, lambda row, name=name: str(row[name]), "left") for name in ("one", "other"))  # type: ignore[misc]
        notes = ("These gave the same KLD for every token, so one of each was not in use.",)
        found.append(table("Pairs that cannot both be true", columns, pairs, notes))
    return found
