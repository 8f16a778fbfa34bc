"""llama-perplexity: argv for the base logits, plain perplexity and KL divergence, and every statistic that it prints.

In KL-divergence mode its errors exit with 0, and under 100 evaluated tokens the final block is missing, so an ending
without the block is a failure whatever the exit code says. Final statistics go to stdout; messages and the plain
estimate go to stderr.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from turbobench.errors import CorpusError, MeasurementError, TurbobenchError
from turbobench.kvtypes import KVPair

_NUMBER = r"(-?(?:\d+(?:\.\d+)?|nan|inf))"
_HEADER = struct.Struct("<8siii")  # magic, n_ctx, n_vocab, chunks
_BATCH = 2048  # a batch's logits are scored before the next one: 400 MB at a vocabulary of 49k
# Label as printed -> field. Two spaces stand for any run of them.
_WITH_ERROR = {
    "Mean PPL(Q)": ("ppl", "ppl_err"),
    "Mean PPL(base)": ("ppl_base", "ppl_base_err"),
    "Mean PPL(Q)/PPL(base)": ("ppl_ratio", "ppl_ratio_err"),
    "Mean KLD": ("kld_mean", "kld_err"),
    "RMS Δp": ("rms_dp_pct", "rms_dp_err"),
    "Same top p": ("same_top_pct", "same_top_err"),
}
_PLAIN = {
    "Maximum KLD": "kld_max",
    "99.9% KLD": "kld_p999",
    "99.0% KLD": "kld_p99",
    "95.0% KLD": "kld_p95",
    "90.0% KLD": "kld_p90",
    "Median KLD": "kld_median",
    "10.0% KLD": "kld_p10",
    "5.0% KLD": "kld_p05",
    "1.0% KLD": "kld_p01",
    "Minimum KLD": "kld_min",
}
# The base clips log-probs 16 nats below the largest, so a few tokens that no model expects change its PPL a little.
_BASE_PPL_TOLERANCE = 0.02
_CHUNK_LINE = re.compile(r"^\s*(\d+)\s+[-\d.naif]+ ±")
_BASE_CHUNK = re.compile(r"\[(\d+)\]" + _NUMBER + ",")


@dataclass(frozen=True, slots=True, kw_only=True)
class PplRequest:
    """What one llama-perplexity process measures. `n_ubatch=1` takes the decode path; `n_threads` None its default.

    `n_gpu_layers` is how many layers to put on the GPU, None for a build without one; `kv_center` the means of K that
    a centred pair needs, `kv_types` the file of one with a policy. The pair's `env` goes with the command line.
    """

    pair: KVPair
    n_ctx: int
    chunks: int
    n_threads: int | None = None
    n_ubatch: int = 512
    n_gpu_layers: int | None = None
    kv_center: Path | None = None
    kv_types: Path | None = None
    flash_attn: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseHeader:
    """What a file of base logits says of itself; `tokens_sha256` names the text."""

    n_ctx: int
    n_vocab: int
    chunks: int
    tokens_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityStats:
    """The KL-divergence block: nats for KLD, percent for `*_pct`; `*_err` is the standard error printed after ±."""

    ppl: float
    ppl_err: float
    ppl_base: float
    ppl_base_err: float
    ppl_ratio: float
    ppl_ratio_err: float
    kld_mean: float
    kld_err: float
    kld_max: float
    kld_p999: float
    kld_p99: float
    kld_p95: float
    kld_p90: float
    kld_median: float
    kld_p10: float
    kld_p05: float
    kld_p01: float
    kld_min: float
    rms_dp_pct: float
    rms_dp_err: float
    same_top_pct: float
    same_top_err: float


def base_bytes(*, n_vocab: int, n_ctx: int, chunks: int) -> int:
    """Return the size of the base logits file: header, tokens, 16-bit log-probs (tools/perplexity/perplexity.cpp)."""
    return _HEADER.size + 4 * chunks * n_ctx + chunks * (n_ctx - 1 - n_ctx // 2) * _token_bytes(n_vocab)


def peak_bytes(*, n_vocab: int, n_ctx: int, n_ubatch: int = 512) -> int:
    """Return the memory that evaluating takes besides weights and K/V: an upper bound.

    The logits of a batch as f32 and in the base's 16-bit form, and those of a micro-batch in the compute buffer.
    """
    rows = min(n_ctx, _BATCH)
    return rows * (4 * n_vocab + _token_bytes(n_vocab)) + min(n_ubatch, n_ctx) * 4 * n_vocab


def read_base_header(path: Path) -> BaseHeader:
    """Read the start of a base file; raises MeasurementError if it is none, or shorter than it promises."""
    with path.open("rb") as handle:
        packed = handle.read(_HEADER.size)
        magic, n_ctx, n_vocab, chunks = _HEADER.unpack(packed) if len(packed) == _HEADER.size else (b"", 0, 0, 0)
        if magic != b"_logits_":
            raise MeasurementError(f"{path.name} holds no base logits", f"remove {path}, and it is made again")
        tokens = handle.read(4 * n_ctx * chunks)
    promised = base_bytes(n_vocab=n_vocab, n_ctx=n_ctx, chunks=chunks)
    found = path.stat().st_size
    if found != promised:
        raise MeasurementError(
            f"{path.name} has {found} bytes where its header promises {promised}",
            f"remove {path}, and it is made again",
        )
    return BaseHeader(n_ctx=n_ctx, n_vocab=n_vocab, chunks=chunks, tokens_sha256=hashlib.sha256(tokens).hexdigest())


def argv_base(program: Path, model: Path, corpus: Path, base: Path, request: PplRequest) -> list[str]:
    """Return the command line that evaluates `corpus` and writes the base logits to `base`."""
    return [*_common(program, model, request), *("-f", str(corpus)), *("--kl-divergence-base", str(base))]


def argv_plain(program: Path, model: Path, corpus: Path, request: PplRequest) -> list[str]:
    """Return the command line for perplexity alone."""
    return [*_common(program, model, request), *("-f", str(corpus))]


def argv_kld(program: Path, model: Path, base: Path, request: PplRequest, *, tokens: Path) -> list[str]:
    """Return the command line that compares `request.pair` with the base logits; `tokens` gets each token's KLD."""
    return [
        *_common(program, model, request),
        "--kl-divergence",
        *("--kl-divergence-base", str(base)),
        *("--kl-divergence-tokens", str(tokens)),
    ]


def parse_plain(output: str) -> tuple[float, float]:
    """Return PPL and its standard error; `output` is stdout and stderr together."""
    found = re.search(r"Final estimate: PPL = " + _NUMBER + r" \+/- " + _NUMBER, output)
    if found is None:
        raise _missing("Final estimate: PPL", output)
    ppl, error = float(found[1]), float(found[2])
    if not math.isfinite(ppl):
        raise MeasurementError(
            f"llama-perplexity reports PPL = {ppl}", "the model or the cache type gives NaN on this build"
        )
    return ppl, error


def parse_chunks(output: str) -> list[float]:
    """Return the running PPL that a run for the base prints after each chunk."""
    return [float(ppl) for _, ppl in _BASE_CHUNK.findall(output)]


def parse_kld(output: str) -> QualityStats:
    """Read the final block; raises MeasurementError (CorpusError: short text) when a part is missing or not finite."""
    # The tool says so and goes on, with figures that compare different things.
    foreign = re.search(r"inconsistent vocabulary.*|has been computed with \d+, while.*", output)
    if foreign is not None:
        raise MeasurementError(
            f"the base is of another model or n_ctx: {foreign[0]}", "remove it, and it is made again"
        )
    values: dict[str, float] = {}
    for label, (field, error_field) in _WITH_ERROR.items():
        values[field], values[error_field] = _find(label, output, with_error=True)
    for label, field in _PLAIN.items():
        values[field], _ = _find(label, output, with_error=False)
    return QualityStats(**values)


def check_differs(stats: QualityStats, pair: KVPair) -> None:
    """Refuse statistics that say another cache type gave the logits of f16: then the type asked for was not in use."""
    same = stats.kld_mean == 0 and stats.rms_dp_pct == 0 and stats.same_top_pct == 100
    if same and pair.types != ("f16", "f16"):
        raise MeasurementError(
            f"{pair} shows exactly the logits of f16/f16 (KLD 0, all top tokens equal), so it was not in use",
            "the log's 'llama_kv_cache: size' line says which cache types were",
        )


def check_base_ppl(stats: QualityStats, expected: float) -> None:
    """Refuse statistics whose base is not the one that was made: its PPL over the same chunks was `expected`."""
    if abs(stats.ppl_base - expected) > _BASE_PPL_TOLERANCE * expected:
        raise MeasurementError(
            f"the base has PPL {stats.ppl_base}, and had {expected} when it was made: it is of another text or model",
            "remove the base folder of the cache, and it is made again",
        )


def chunk_of(line: str) -> int | None:
    """Return the number of the chunk that a line of output says is finished, for live progress."""
    found = _CHUNK_LINE.match(line)
    if found is not None:
        return int(found[1])
    numbers = _BASE_CHUNK.findall(line)
    return int(numbers[-1][0]) if numbers else None


def _common(program: Path, model: Path, request: PplRequest) -> list[str]:
    return [
        str(program),
        *("-m", str(model)),
        *("-c", str(request.n_ctx), "--chunks", str(request.chunks)),
        # One sequence at a time: the KV buffer in the log is that of n_ctx, and base and comparison batch alike.
        *("-b", str(min(_BATCH, request.n_ctx)), "-ub", str(min(request.n_ubatch, request.n_ctx))),
        *("-fa", "on" if request.flash_attn else "off"),
        *request.pair.argv(request.kv_center, request.kv_types),
        *(() if request.n_threads is None else ("-t", str(request.n_threads))),
        # Fitting would load the model once more, without memory, and log a context that nothing runs in.
        *(() if request.n_gpu_layers is None else ("-ngl", str(request.n_gpu_layers), "-fit", "off")),
        *("-lv", "4"),
    ]


def _token_bytes(n_vocab: int) -> int:
    """Return what a scored token takes in the base: scale, least value, 16-bit log-probs."""
    return 2 * (2 * ((n_vocab + 1) // 2) + 4)


def _find(label: str, output: str, *, with_error: bool) -> tuple[float, float]:
    name = r"\s+".join(re.escape(part) for part in label.split())
    tail = r"\s*±\s*" + _NUMBER if with_error else ""
    found = re.search(rf"^\s*{name}\s*:\s*{_NUMBER}{tail}", output, re.MULTILINE)
    if found is None:
        raise _missing(label, output)
    numbers = [float(part) for part in found.groups()]
    # The error of a figure can be NaN where the figure itself cannot vary (all top tokens the same, KLD of 0).
    if not math.isfinite(numbers[0]):
        raise MeasurementError(
            f"llama-perplexity reports {' '.join(label.split())} = {numbers[0]}",
            "the cache type or the build gives NaN logits; the log shows at which chunk it began",
        )
    return numbers[0], numbers[1] if with_error else 0.0


def _missing(label: str, output: str) -> TurbobenchError:
    """Say why the statistics are missing, from what the program printed."""
    short = re.search(r"need at least (\d+) tokens", output)
    if short is not None:
        has = re.search(r"tokenizes to only (\d+) tokens", output)
        return CorpusError(
            f"the text is too short: it gives {has[1] if has else 'too few'} tokens where {short[1]} are needed",
            "give a longer text, or a smaller n_ctx or fewer chunks",
        )
    errors = re.findall(r" E (?:\w+: )?(.+)$", output, re.MULTILINE)
    cause = errors[-1].strip() if errors else "the run ended early, or evaluated fewer than 100 tokens"
    return MeasurementError(f"llama-perplexity printed no '{label}': {cause}", "the log shows the whole run")
