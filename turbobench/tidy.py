"""Records to one row a measurement: the columns of `tidy.csv`, which checks outside the project read by name."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from turbobench import kld_tokens, niah
from turbobench.errors import StoreError
from turbobench.kvtypes import KVPair
from turbobench.programs.perplexity import QualityStats
from turbobench.stats import Estimate, geometric_interval, rounds_interval
from turbobench.store import Record

if TYPE_CHECKING:
    import pandas as pd

# The published interface, in its order; columns of our own follow.
COLUMNS = (
    *("set", "cell_id", "build_id", "tree_id", "backend", "device", "model", "model_sha256", "type_k", "type_v"),
    *("center", "bpv", "test", "path", "n_depth", "n_ctx", "tokens_per_s", "tokens_per_s_lo", "tokens_per_s_hi"),
    *("ratio_f16", "ratio_q8_0", "ppl", "kld_mean", "kld_p99", "kld_p999", "kld_max", "same_top_pct", "kv_mib"),
    *("placement", "disposition", "samples", "timestamp"),
)
EXTRA_COLUMNS = (
    *("ratio_f16_lo", "ratio_f16_hi", "ratio_q8_0_lo", "ratio_q8_0_hi", "rounds", "threads", "ppl_err", "ppl_ratio"),
    *("kld_err", "kld_p95", "kld_p90", "kld_median", "rms_dp_pct", "same_top_err", "chunks", "weights", "nmse"),
    *("kind", "attn_rot_k", "attn_rot_v", "corpus_sha256", "reason", "device_mib_peak", "random_weights"),
    *("unrotated", "kv_center_sha256", "n_ubatch", "pos_lo", "pos_hi", "kld_prefill", "kld_prefill_err"),
    *("keys", "needles", "needles_found_pct", "needles_f16_pct", "needles_lost", "needles_won", "needles_p", "verdict"),
    *("kld_p10", "kld_p05", "kld_p01", "kld_min", "rms_dp_err", "ppl_ratio_err", "ppl_base", "fingerprint"),
    *("policy", "layer_types", "kld_paths_err"),
)
# What a row of one range of positions cannot say, though its cell can.
_MEASURED_COLUMNS = frozenset(field.name for field in dataclasses.fields(QualityStats)) | {"fingerprint"}
_BASELINES = {"f16": KVPair("f16", "f16"), "q8_0": KVPair("q8_0", "q8_0")}

Row = dict[str, Any]
# A speed cell without its pair: what two cells must share for a ratio of them to mean anything.
_Peer = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ResultSet:
    """The last sweep of a set: its header record, and of each (cell, round) the last outcome."""

    header: Record
    ends: tuple[Record, ...]

    @property
    def provenance(self) -> dict[str, Any]:
        found: dict[str, Any] = self.header["provenance"]
        return found


def last_sweep(records: Iterable[Record]) -> ResultSet:
    """Pick the cells that the newest sweep planned, whichever run measured them; raises StoreError if there is none."""
    records = list(records)
    header = next((record for record in reversed(records) if record["kind"] == "sweep"), None)
    if header is None:
        raise StoreError("the result set holds no sweep", "make one with 'turbobench run configs/demo.yaml'")
    planned = set(header["planned"])
    latest: dict[tuple[str, int], Record] = {}
    for record in records:
        if record["kind"] != "cell" or record["cell_id"] not in planned:
            continue
        key = (record["cell_id"], record["round"])
        # A measurement is never displaced by a later failure: it was finished, and is not run again.
        if record["outcome"] == "measured" or latest.get(key, {}).get("outcome") != "measured":
            latest[key] = record
    order = {cell_id: index for index, cell_id in enumerate(header["planned"])}
    ends = sorted(latest.values(), key=lambda record: (order[record["cell_id"]], record["round"]))
    return ResultSet(header=header, ends=tuple(ends))


def rows(result_set: ResultSet) -> list[Row]:
    """Return one row for each cell: rounds and repetitions summarised, failures and skips with their reason.

    A KLD cell has more rows, of kind `bucket` and test `kld_bucket`: the same by position in the window (`pos_lo` to
    `pos_hi`). One of the decode path has in `kld_prefill` what the prompt's path gave on the same chunks, and in
    `kld_paths_err` the standard error of the difference.
    """
    by_cell: dict[str, list[Record]] = defaultdict(list)
    for record in result_set.ends:
        by_cell[record["cell_id"]].append(record)
    medians = _round_medians(result_set.ends)
    prefill = _prefill(result_set.ends)
    references = _needle_references(result_set.ends)
    found: list[Row] = []
    for records in by_cell.values():
        row = _row(records, result_set.header, medians)
        row |= _same_chunks(records[-1], prefill) | _needles(records, references)
        found += [row, *_bucket_rows(row, records)]
    return found


def frame(result_set: ResultSet) -> pd.DataFrame:
    """Return the rows as a DataFrame with exactly `COLUMNS` and then `EXTRA_COLUMNS`."""
    import pandas as pd  # noqa: PLC0415 - half a second that a cached demo need not pay twice

    return pd.DataFrame(rows(result_set), columns=[*COLUMNS, *EXTRA_COLUMNS])


def _needle_references(ends: Iterable[Record]) -> dict[_Peer, dict[str, bool]]:
    """Return which needles f16 found, for each set of prompts."""
    return {
        _prompts(record["cell"]): record["measurement"]["trials"]
        for record in ends
        if record["cell"]["kind"] == "niah"
        and record["outcome"] == "measured"
        and KVPair.of(record["cell"]) == _BASELINES["f16"]
    }


def _needles(records: list[Record], references: Mapping[_Peer, dict[str, bool]]) -> Row:
    measured = [r for r in records if r["outcome"] == "measured" and r["cell"]["kind"] == "niah"]
    if not measured:
        return {}
    found = measured[-1]["measurement"]["trials"]
    row: Row = {
        "samples": len(found),
        "needles": len(found),
        "needles_found_pct": 100 * sum(found.values()) / len(found),
    }
    paired = niah.compare(found, references.get(_prompts(measured[-1]["cell"]), {}))
    if paired is None:
        return row
    row["needles_f16_pct"] = 100 * paired.reference / paired.n
    if KVPair.of(measured[-1]["cell"]) == _BASELINES["f16"]:
        return row
    lost, won = paired.lost, paired.won
    return row | {"needles_lost": lost, "needles_won": won, "needles_p": paired.p, "verdict": paired.verdict}


def _prompts(cell: Mapping[str, Any]) -> _Peer:
    """Return what two needle cells share when they asked the same of the same model."""
    names = ("build_id", "device", "model_sha256", "corpus_sha256", "n_ctx")
    return tuple(cell[name] for name in names) + tuple(
        cell["params"].get(name) for name in ("weights", "keys", "positions", "seeds")
    )


def _prefill(ends: Iterable[Record]) -> dict[_Peer, Record]:
    """Return the measurement of every cell that was measured through the prompt's path."""
    return {
        _path_peer(record["cell"]): record["measurement"]
        for record in ends
        if record["outcome"] == "measured" and record["cell"]["path"] == "prefill" and _has_tokens(record)
    }


def _same_chunks(record: Record, prefill: Mapping[_Peer, Record]) -> Row:
    cell = record["cell"]
    peer = prefill.get(_path_peer(cell)) if cell["test"] == "kld" and cell["path"] == "decode" else None
    n = cell["chunks"] or 0
    if not peer or not n or len(peer["chunks"]) < n:
        return {}
    mean, error = kld_tokens.pooled(peer["chunks"][:n])
    found: Row = {"kld_prefill": mean, "kld_prefill_err": error}
    runs = record["measurement"].get("runs") if record["outcome"] == "measured" else None
    if runs and peer.get("runs"):  # sets of an older turbobench have none
        found["kld_paths_err"] = kld_tokens.difference_error(runs, peer["runs"][:n])
    return found


def _path_peer(cell: Mapping[str, Any]) -> _Peer:
    """Return what a cell of the prompt's path and one of the decode path share."""
    weights, center = (cell["params"].get(name) for name in ("weights", "kv_center"))
    shared = tuple(cell[name] for name in ("build_id", "device", "model_sha256", "corpus_sha256", "n_ctx"))
    return (*shared, weights, center, KVPair.of(cell))


def _has_tokens(record: Record) -> bool:
    """Whether it holds the KLD of single tokens, which sets of an older turbobench lack."""
    return "fingerprint" in record["measurement"]


def _bucket_rows(row: Row, records: list[Record]) -> list[Row]:
    measured = [record for record in records if record["outcome"] == "measured" and _has_tokens(record)]
    buckets = measured[-1]["measurement"]["buckets"] if measured else []
    kept = {name: value for name, value in row.items() if name not in _MEASURED_COLUMNS}
    return [
        kept
        | {"kind": "bucket", "test": "kld_bucket", "samples": row["samples"]}
        | {name: part[name] for name in ("pos_lo", "pos_hi", "kld_mean", "kld_err")}
        for part in buckets
    ]


def _row(records: list[Record], header: Record, medians: Mapping[tuple[_Peer, KVPair], Mapping[int, float]]) -> Row:
    measured = [record for record in records if record["outcome"] == "measured"]
    last = (measured or records)[-1]
    row = _identity(last, header)
    row["disposition"] = last["outcome"] if not measured else "measured"
    row["timestamp"] = last["ended_at"]
    failed = next((record for record in records if record["outcome"] != "measured"), None)
    if failed is not None:
        row["reason"] = failed["reason"]
    if measured:
        row |= _placement(measured)
        row |= _figures(measured, last["cell"], medians)
    return row


def _identity(record: Record, header: Record) -> Row:
    cell, provenance = record["cell"], header["provenance"]
    pair = KVPair.of(cell)
    return {
        "set": header["set"],
        "cell_id": record["cell_id"],
        "build_id": cell["build_id"],
        "tree_id": provenance["tree_id"],
        "backend": provenance["backend"],
        "device": cell["device"],
        "model": provenance["model"]["file"] if cell["model_sha256"] else None,
        "model_sha256": cell["model_sha256"],
        "random_weights": bool(cell["model_sha256"] and provenance["model"].get("random_weights")),
        "center": None,
        "unrotated": None,
        "policy": None,
        "layer_types": None,
        **pair.fields(),
        "kv_center_sha256": cell["params"].get("kv_center"),
        "bpv": pair.bpv,
        "test": cell["test"],
        "kind": cell["kind"],
        "path": cell["path"],
        "n_depth": cell["n_depth"],
        "n_ctx": cell["n_ctx"],
        "chunks": cell["chunks"],
        "weights": cell["params"].get("weights"),
        "n_ubatch": cell["params"].get("n_ubatch"),
        "keys": cell["params"].get("keys"),
        "corpus_sha256": cell["corpus_sha256"],
    }


def _placement(measured: list[Record]) -> Row:
    """Return what ran; of several rounds the worst placement counts."""
    rank = {"fallback": 0, "unverified": 1, "verified": 2}
    worst = min(measured, key=lambda record: rank[record["placement"]])
    observed = measured[-1]["observed"] or {}
    found: Row = {"placement": worst["placement"], "kv_mib": observed.get("kv_mib")}
    found |= {side: observed.get(side) for side in ("attn_rot_k", "attn_rot_v")}
    peaks = [record["device_mib_peak"] for record in measured if record.get("device_mib_peak") is not None]
    found |= {"device_mib_peak": max(peaks, default=None)}
    return found | ({"reason": worst["placement_reason"]} if worst["placement_reason"] else {})


def _figures(
    measured: list[Record], cell: Mapping[str, Any], medians: Mapping[tuple[_Peer, KVPair], Mapping[int, float]]
) -> Row:
    measurement = measured[-1]["measurement"]
    match measurement["type"]:
        case "speed":
            return _speed(measured, cell, medians)
        case "ppl":
            return {"ppl": measurement["ppl"], "ppl_err": measurement["ppl_err"], "samples": cell["chunks"]}
        case "kld":
            known = {*COLUMNS, *EXTRA_COLUMNS}
            return {k: v for k, v in measurement.items() if k in known - {"chunks"}} | {"samples": cell["chunks"]}
        case "niah":
            return {}  # what they say is how they compare with f16's
        case "nmse":
            return {"nmse": measurement["nmse"], "samples": measurement["n_values"]}
        case other:
            raise StoreError(f"a record holds a measurement of unknown type {other!r}", "use the version that wrote it")


def _speed(
    measured: list[Record], cell: Mapping[str, Any], medians: Mapping[tuple[_Peer, KVPair], Mapping[int, float]]
) -> Row:
    samples = [_tokens_per_s(record) for record in measured]
    speed = rounds_interval(samples)
    row: Row = {
        "tokens_per_s": speed.value,
        "tokens_per_s_lo": speed.lo,
        "tokens_per_s_hi": speed.hi,
        "rounds": len(measured),
        "samples": sum(map(len, samples)),
        "threads": measured[-1]["measurement"]["n_threads"],
    }
    own = medians.get((_peer(cell), KVPair.of(cell)), {})
    for name, baseline in _BASELINES.items():
        ratio = _ratio(own, medians.get((_peer(cell), baseline), {}))
        if ratio is not None:
            row |= {f"ratio_{name}": ratio.value, f"ratio_{name}_lo": ratio.lo, f"ratio_{name}_hi": ratio.hi}
    return row


def _ratio(own: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Return the geometric mean of ratios within one round: what drifts between rounds cancels."""
    shared = sorted(own.keys() & baseline.keys())
    return geometric_interval([own[number] / baseline[number] for number in shared]) if shared else None


def _round_medians(ends: Iterable[Record]) -> dict[tuple[_Peer, KVPair], dict[int, float]]:
    """Return tokens/s of each speed cell by round: the median of its repetitions. A fallback is never compared."""
    medians: dict[tuple[_Peer, KVPair], dict[int, float]] = defaultdict(dict)
    for record in ends:
        cell = record["cell"]
        if cell["kind"] == "speed" and record["outcome"] == "measured" and record["placement"] != "fallback":
            key = (_peer(cell), KVPair.of(cell))
            medians[key][record["round"]] = statistics.median(_tokens_per_s(record))
    return medians


def _peer(cell: Mapping[str, Any]) -> _Peer:
    return (cell["build_id"], cell["device"], cell["model_sha256"], cell["test"], cell["n_depth"])


def _tokens_per_s(record: Record) -> list[float]:
    measurement = record["measurement"]
    return [1e9 * measurement["n_tokens"] / ns for ns in measurement["samples_ns"]]
