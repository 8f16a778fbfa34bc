"""What a model file says of itself, what its KV cache weighs, and whether a cache-type pair can serve it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gguf import LlamaFileType

from turbobench.errors import ModelError
from turbobench.gguf_header import Header, StringArray, Value, read_header
from turbobench.hashing import cached_sha256
from turbobench.kvtypes import FLOATS, KV_TYPES, KVPair
from turbobench.layer_types import LayerRun, LayerTypes, merged

RANDOM_WEIGHTS_KEY = "turbobench.synthetic"
RANDOM_WEIGHTS = "random weights, throughput only"

_N_CTX_PAD = 256  # llama-context.cpp: cparams.n_ctx = GGML_PAD(cparams.n_ctx, 256)
_HADAMARD = 64  # llama-kv-cache.cpp: rotation needs a head size that is a multiple of this

# The layers of these alternate between full and sliding-window attention even if the file does not say how:
# (period, whether the full layer comes first in it); `load_swa_pattern` in src/models/*.cpp of the pin.
_SWA_PERIODS: dict[str, tuple[int, bool]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "muse-glimmer": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
_SWA_FIXED = {"llama4": 8192, "smallthinker": 4096}  # the pin takes these whatever window the file names
_SWA_DEFAULT = {"gemma2": 4096, "llama4": 8192}  # where the file names none
# These keep a second cache of type_k for an indexer (lightning indexer, MSA) that turbo codes are not made for.
_INDEXER_ARCHS = {"deepseek32", "deepseek4", "dots3note", "glm-dsa", "glm5-next", "minimax-m3"}
_NO_FLASH_ATTENTION = {"grok"}  # llama-context.cpp forces it off, and without it V cannot be quantized
_NO_KV_CACHE = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_GEMMA3N_KV_LAYERS = 20
_EXAONE4_SWA_LAYERS = 64  # only the 32B one has windows


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the KV cache and the reports need of a model. Per-layer tuples have `n_layer` entries.

    `n_head_kv` is 0 and `kv_layers` False where a layer keeps no cache of its own (recurrent, or shared with another
    layer). `n_swa` is the window in tokens, 0 for none; `swa_layers` are the layers it holds for, whose head
    sizes are `head_dim_k_swa`, `head_dim_v_swa`. `n_layer` leaves out layers that only draft (MTP). `random_weights`
    is whether the file is one of `turbobench synth`, which has the speed of a model and no meaning.
    """

    path: Path
    sha256: str
    size_bytes: int
    arch: str
    name: str
    file_type: str
    n_layer: int
    n_ctx_train: int
    n_embd: int
    n_head: int
    n_head_kv: tuple[int, ...]
    head_dim_k: int
    head_dim_v: int
    head_dim_k_swa: int
    head_dim_v_swa: int
    n_vocab: int
    n_params: int
    is_mla: bool
    has_indexer: bool
    n_swa: int
    swa_layers: tuple[bool, ...]
    kv_layers: tuple[bool, ...]
    random_weights: bool

    def head_dims(self, layer: int) -> tuple[int, int]:
        """Return the head sizes of K and V in one layer."""
        if self.swa_layers[layer]:
            return self.head_dim_k_swa, self.head_dim_v_swa
        return self.head_dim_k, self.head_dim_v

    @property
    def has_full_precision(self) -> bool:
        """Whether the weights are f32, f16 or bf16 already."""
        return self.file_type in {"ALL_F32", "MOSTLY_F16", "MOSTLY_BF16"}


def read_facts(path: Path) -> ModelFacts:
    """Read a GGUF file's facts; raises ModelError if it is missing, not GGUF, truncated, or no language model."""
    header = read_header(path)
    fields = _Fields(path, header.metadata)
    parts = fields.whole("split.count", 1, prefix=False)
    if parts > 1:
        raise ModelError(
            f"{path} is one of {parts} parts of a model",
            "merge them with llama-gguf-split --merge, then give the whole",
        )
    try:
        return _facts(path, header, fields)
    except (TypeError, ValueError, ZeroDivisionError) as failure:
        raise ModelError(
            f"{path} has metadata that makes no sense: {failure}", "give another file with -m"
        ) from failure


def kv_bytes(facts: ModelFacts, pair: KVPair, n_ctx: int, *, n_ubatch: int = 512) -> int:
    """Return the bytes of the K and V cache for one sequence of `n_ctx` tokens, as llama.cpp allocates them.

    n_ctx is rounded up to 256; sliding-window layers hold the window and one micro-batch, also rounded up, and never
    more than the rest (llama-kv-cache-iswa.cpp, `swa_full` off as in llama-bench). MLA keeps no V.
    """
    cells = _padded(n_ctx)
    swa_cells = _padded(min(cells, facts.n_swa + n_ubatch))
    total = 0
    for layer in range(facts.n_layer):
        if not facts.kv_layers[layer]:
            continue
        n_cells = swa_cells if facts.swa_layers[layer] else cells
        widths = [dim * facts.n_head_kv[layer] for dim in facts.head_dims(layer)]
        type_k, type_v = pair.types_of(layer)
        row = _row_bytes(type_k, widths[0]) + (0 if facts.is_mla else _row_bytes(type_v, widths[1]))
        total += n_cells * row
    return total


def preflight(facts: ModelFacts, pair: KVPair) -> str | None:
    """Return the reason why llama.cpp cannot, or turbo must not, serve this model with this pair; None if it can.

    Turbo types need their rotation (llama-kv-cache.cpp, attn_rot_k/v): a head size that is a multiple of 64 in every
    layer, no MLA, and no second user of the K type. The patched llama.cpp refuses the same; this says it sooner.
    """
    if facts.arch in _NO_KV_CACHE or not any(facts.kv_layers):
        return f"{facts.arch} keeps no KV cache"
    if facts.is_mla and pair.type_k != pair.type_v:
        return f"{facts.arch} with MLA keeps K and V in one cache, so both need the same type"
    if facts.arch in _NO_FLASH_ATTENTION and not pair.types_used(1) <= FLOATS:
        return f"{facts.arch} runs without flash attention, which a quantized V needs"
    if pair.uses_turbo and facts.is_mla:
        return "turbo types are not rotated in an MLA cache, and bad without it"
    if pair.uses_turbo and facts.has_indexer:
        return f"{facts.arch} reuses the K type for its indexer's cache, which turbo types cannot serve"
    return _policy_problem(facts, pair) or _head_size_problem(facts, pair)


def layer_types_for(facts: ModelFacts, name: str, type_k: str, type_v: str) -> LayerTypes:
    """Return types by layer for this model, the same in every layer with a cache; ModelError if none has one."""
    runs = [
        LayerRun(layer, layer, dims[0] * facts.n_head_kv[layer], type_k, dims[1] * facts.n_head_kv[layer], type_v)
        for layer in range(facts.n_layer)
        for dims in (facts.head_dims(layer),)
        if facts.kv_layers[layer]
    ]
    if not runs:
        raise ModelError(f"{facts.path.name} keeps no KV cache", "give a model with attention")
    return LayerTypes(name, facts.arch, facts.n_layer, facts.n_embd, merged(name, runs))


def _policy_problem(facts: ModelFacts, pair: KVPair) -> str | None:
    """Return what of a pair's policy is not of this model, None if it fits."""
    policy = pair.policy
    if policy is None:
        return None
    if facts.is_mla or facts.has_indexer:
        return f"{facts.arch} caches more than K and V (latent attention, or an indexer), so it takes no policy"
    asked = (policy.arch, policy.n_layer, policy.n_embd)
    there = (facts.arch, facts.n_layer, facts.n_embd)
    if asked != there:
        of = "the policy {} is for a model of {}, {} layers, embedding {}; this one is {}, {}, {}"
        return of.format(policy.name, *asked, *there)
    stored = layer_types_for(facts, policy.name, "f16", "f16")
    if LayerTypes.build(policy.name, policy, stored.by_layer) != stored:
        return f"the policy {policy.name} has other layers, or layers of another width, than this model"
    return None


def _head_size_problem(facts: ModelFacts, pair: KVPair) -> str | None:
    for layer in range(facts.n_layer):
        if not facts.kv_layers[layer]:
            continue
        for side, name, size in zip("KV", pair.types_of(layer), facts.head_dims(layer), strict=True):
            needed = _HADAMARD if KV_TYPES[name].is_turbo else KV_TYPES[name].block
            if size % needed:
                return f"{name} needs a head size that is a multiple of {needed}; the {side} heads here have {size}"
    return None


def _padded(n: int) -> int:
    return -(-n // _N_CTX_PAD) * _N_CTX_PAD


def _row_bytes(name: str, width: int) -> int:
    kind = KV_TYPES[name]
    return kind.block_bytes * width // kind.block


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the metadata; keys are prefixed with the architecture, as in GGUF."""

    path: Path
    metadata: dict[str, Value]

    @property
    def arch(self) -> str:
        arch = self.metadata.get("general.architecture")
        if not isinstance(arch, str) or not arch:
            raise ModelError(f"{self.path} names no architecture", "give a .gguf model with -m")
        return arch

    def raw(self, key: str, *, prefix: bool = True) -> Value | None:
        return self.metadata.get(f"{self.arch}.{key}" if prefix else key)

    def whole(self, key: str, default: int | None = None, *, prefix: bool = True) -> int:
        value = self.raw(key, prefix=prefix)
        if value is None and default is not None:
            return default
        if not isinstance(value, int):
            raise ModelError(
                f"{self.path} is no language model that llama.cpp could run: {self.arch}.{key} is {value!r}",
                "give a .gguf model with -m",
            )
        return value

    def per_layer(self, key: str, count: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Read a number for all layers, or one a layer."""
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, tuple):
            if len(value) < count:
                raise ValueError(f"{key} has {len(value)} entries for {count} layers")
            return tuple(int(item) for item in value[:count])
        return (self.whole(key),) * count


def _facts(path: Path, header: Header, fields: _Fields) -> ModelFacts:
    # Layers after the trunk only draft (MTP); the trunk's cache leaves them out.
    n_layer = fields.whole("block_count") - fields.whole("nextn_predict_layers", 0)
    n_embd = fields.whole("embedding_length")
    heads = fields.per_layer("attention.head_count", n_layer, (0,) * n_layer)
    n_head = heads[0] if heads and heads[0] else max(heads, default=0)
    head_dim = n_embd // n_head if n_head else 0
    dim_k = fields.whole("attention.key_length", head_dim)
    dim_v = fields.whole("attention.value_length", head_dim)
    n_head_kv = fields.per_layer("attention.head_count_kv", n_layer, heads)
    n_swa, swa_layers = _swa(fields, n_layer)
    mla = [fields.whole(f"attention.{side}_length_mla", 0) for side in ("key", "value")]
    indexer = fields.whole("attention.indexer.key_length", 0) > 0 and fields.whole("attention.indexer.top_k", 1) > 0
    return ModelFacts(
        path=path,
        sha256=cached_sha256(path),
        size_bytes=path.stat().st_size,
        arch=fields.arch,
        name=str(fields.raw("general.name", prefix=False) or path.stem),
        file_type=_file_type(fields),
        n_layer=n_layer,
        n_ctx_train=fields.whole("context_length", 0),
        n_embd=n_embd,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim_k=dim_k,
        head_dim_v=dim_v,
        head_dim_k_swa=fields.whole("attention.key_length_swa", dim_k),
        head_dim_v_swa=fields.whole("attention.value_length_swa", dim_v),
        n_vocab=_n_vocab(fields),
        n_params=sum(tensor.n_elements for tensor in header.tensors),
        is_mla=all(mla),
        has_indexer=fields.arch in _INDEXER_ARCHS or indexer,
        n_swa=n_swa,
        swa_layers=swa_layers,
        kv_layers=_kv_layers(fields, n_layer, n_head_kv),
        random_weights=bool(fields.raw(RANDOM_WEIGHTS_KEY, prefix=False)),
    )


def _swa(fields: _Fields, n_layer: int) -> tuple[int, tuple[bool, ...]]:
    """Return the window and which layers have it; llama.cpp treats an architecture not named here as having none."""
    n_swa = fields.whole("attention.sliding_window", _SWA_DEFAULT.get(fields.arch, 0))
    if n_swa:
        n_swa = _SWA_FIXED.get(fields.arch, n_swa)
    pattern = fields.raw("attention.sliding_window_pattern")
    if n_swa and isinstance(pattern, tuple):
        return n_swa, tuple(map(bool, fields.per_layer("attention.sliding_window_pattern", n_layer, ())))
    if not n_swa or fields.arch not in _SWA_PERIODS or (fields.arch == "exaone4" and n_layer != _EXAONE4_SWA_LAYERS):
        return 0, (False,) * n_layer
    period, full_first = _SWA_PERIODS[fields.arch]
    period = pattern if isinstance(pattern, int) else period
    if period == 0:
        return n_swa, (True,) * n_layer
    full = 0 if full_first else period - 1
    return n_swa, tuple(layer % period != full for layer in range(n_layer))


def _kv_layers(fields: _Fields, n_layer: int, n_head_kv: tuple[int, ...]) -> tuple[bool, ...]:
    """Return which layers keep K and V: not the recurrent ones of a hybrid, nor those that borrow another's."""
    own = n_layer - fields.whole("attention.shared_kv_layers", 0)
    if fields.arch == "gemma3n":
        own = _GEMMA3N_KV_LAYERS
    recurrent = fields.per_layer("attention.recurrent_layers", n_layer, (0,) * n_layer)
    interval = fields.whole("full_attention_interval", 0)
    if interval and fields.raw("attention.recurrent_layers") is None:
        recurrent = tuple(int((layer + 1) % interval != 0) for layer in range(n_layer))
    return tuple(layer < own and n_head_kv[layer] > 0 and not recurrent[layer] for layer in range(n_layer))


def _n_vocab(fields: _Fields) -> int:
    tokens = fields.raw("tokenizer.ggml.tokens", prefix=False)
    return fields.whole("vocab_size", tokens.count if isinstance(tokens, StringArray) else 0)


def _file_type(fields: _Fields) -> str:
    number = fields.whole("general.file_type", -1, prefix=False)
    try:
        return LlamaFileType(number).name
    except ValueError:
        return f"type {number}" if number >= 0 else "unknown"
