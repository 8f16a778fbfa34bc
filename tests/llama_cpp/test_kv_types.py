"""Types by layer: as -ctk and -ctv where all layers are alike, as asked where not, and refused where wrong."""

from __future__ import annotations

import json
import re
import urllib.error
from dataclasses import replace
from pathlib import Path

import pytest

from tests.llama_cpp import tiny_models
from tests.llama_cpp.servers import running
from turbobench import layer_types, placement, proc
from turbobench.build import Build
from turbobench.calibrate import Calibration, calibrate
from turbobench.corpora import Corpus
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerTypes
from turbobench.model import layer_types_for, read_facts
from turbobench.programs import llama_bench, perplexity
from turbobench.programs.perplexity import PplRequest, QualityStats

_F16 = KVPair("f16", "f16")
_N_CTX = 256


def _run(argv: list[str], **env: str) -> tuple[int, str]:
    lines: list[str] = []
    ended = proc.run(proc.Command(argv=argv, timeout_s=900, env=env), on_line=lines.append)
    return ended.returncode, "\n".join(lines)


class _Model:
    """KLD against f16 K/V on one model and text, and policies for it."""

    def __init__(self, build: Build, model: Path, text: Path, folder: Path) -> None:
        self.program, self.model, self.folder = build.program("llama-perplexity"), model, folder
        self.facts = read_facts(model)
        self.base, self.center = folder / "base", folder / "model.kv-center.gguf"
        request = PplRequest(pair=_F16, n_ctx=_N_CTX, chunks=2)
        code, output = _run(perplexity.argv_base(self.program, model, text, self.base, request))
        assert code == 0, output[-2000:]

    def policy(self, type_k: str, type_v: str, **layers: tuple[str, str]) -> LayerTypes:
        """Return types for all layers, and others for some: `l3=("f16", "turbo4")`."""
        like = layer_types_for(self.facts, "p", type_k, type_v)
        return LayerTypes.build("p", like, {int(name[1:]): types for name, types in layers.items()})

    def run(self, pair: KVPair, *, file: Path | None = None, **env: str) -> tuple[int, str]:
        return self._run(PplRequest(pair=pair, n_ctx=_N_CTX, chunks=2), file, env)

    def _run(self, request: PplRequest, file: Path | None, env: dict[str, str]) -> tuple[int, str]:
        pair, path = request.pair, self.folder / "p.kv-types"
        if pair.policy is not None:
            layer_types.write(pair.policy, path)
        request = replace(request, kv_center=self.center, kv_types=file or path)
        tokens = self.folder / "tokens"
        argv = perplexity.argv_kld(self.program, self.model, self.base, request, tokens=tokens)
        return _run(argv, **(pair.env | env))

    def kld(self, pair: KVPair, *, n_ubatch: int = 512, chunks: int = 2) -> QualityStats:
        request = PplRequest(pair=pair, n_ctx=_N_CTX, chunks=chunks, n_ubatch=n_ubatch)
        code, output = self._run(request, None, {})
        assert code == 0, output[-2000:]
        (observed,) = placement.observe(output.splitlines())
        dims = (self.facts.head_dim_k, self.facts.head_dim_v)
        verdict = placement.judge(observed, pair, backend="cpu", head_dims=dims)
        assert verdict.placement == "verified", verdict.reason
        return perplexity.parse_kld(output)


@pytest.fixture(scope="module")
def smollm(cpu_build: Build, model_f16: Path, text: Corpus, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    made = _Model(cpu_build, model_f16, text.path, tmp_path_factory.mktemp("smollm"))
    calibrate(Calibration(model=made.facts, text=text, n_ctx=512, n_tokens=512, out=made.center), cpu_build)
    return made


@pytest.fixture(scope="module")
def gemma(cpu_build: Build, text: Corpus, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    """Two caches: five of six layers have a sliding window."""
    folder = tmp_path_factory.mktemp("gemma")
    short = folder / "short.txt"
    short.write_bytes(text.path.read_bytes()[:8192])  # each byte is a token, and the tokenizer slow
    return _Model(cpu_build, tiny_models.gemma(folder / "m.gguf", version=3), short, folder)


def test_the_same_types_in_all_layers_are_to_the_bit_those_types(smollm: _Model) -> None:
    asked = KVPair.parse("turbo4+c/turbo3")
    by_layer = KVPair.by_layer(smollm.policy(*asked.types), center=True)
    assert smollm.kld(by_layer) == smollm.kld(asked)


def test_f16_in_all_layers_changes_nothing(smollm: _Model) -> None:
    assert smollm.kld(KVPair.by_layer(smollm.policy("f16", "f16"))).kld_max < 1e-3


def test_a_mix_of_f16_and_quantized_layers_costs_what_its_quantized_layers_do(smollm: _Model) -> None:
    """Rotated and not, centred and not: a layer that was read otherwise than it was stored would cost far more."""
    turbo3 = smollm.kld(KVPair("turbo3", "turbo3")).kld_mean
    some = {f"l{layer}": ("turbo3", "turbo3") for layer in range(0, 30, 3)}
    mixed = smollm.kld(KVPair.by_layer(smollm.policy("f16", "f16", **some))).kld_mean
    assert 0.1 * turbo3 < mixed < 0.7 * turbo3
    sides = {f"l{layer}": ("q8_0", "turbo4") for layer in range(0, 30, 2)}
    assert smollm.kld(KVPair.by_layer(smollm.policy("f16", "q5_0", **sides))).kld_mean < 0.2 * turbo3


def test_a_mix_is_centred_too(smollm: _Model) -> None:
    some = {f"l{layer}": ("turbo3", "f16") for layer in range(0, 30, 2)}
    policy = smollm.policy("f16", "f16", **some)
    plain, centred = (smollm.kld(KVPair.by_layer(policy, center=center)).kld_mean for center in (False, True))
    assert centred < 0.9 * plain


def test_the_decode_path_reads_a_mix_as_the_prompts_path_does(smollm: _Model) -> None:
    pair = KVPair.by_layer(smollm.policy("turbo4", "turbo3", l0=("f16", "q8_0"), l7=("q8_0", "f16")), center=True)
    prefill, decode = smollm.kld(pair, chunks=1), smollm.kld(pair, n_ubatch=1, chunks=1)
    assert decode.kld_mean == pytest.approx(prefill.kld_mean, abs=prefill.kld_err + decode.kld_err)


def test_sliding_window_layers_have_their_own_types(gemma: _Model) -> None:
    plain = _kld_of_first_chunk(gemma.run(KVPair("turbo3", "turbo3"))[1])
    found = []
    windows = {f"l{layer}": ("f16", "f16") for layer in range(5)}
    for layers in ({}, {"l0": ("f16", "turbo3"), "l4": ("q8_0", "f16")}, {"l5": ("f16", "f16")}, windows):
        policy = gemma.policy("turbo3", "turbo3", **layers)
        _, output = gemma.run(KVPair.by_layer(policy))
        observed = placement.observe(output.splitlines())[0]
        assert observed.layer_types == layer_types.as_logged(policy.by_layer)
        found.append(_kld_of_first_chunk(output))
    assert found[0] == plain > 0
    assert 0.8 * plain < found[1] < 1.2 * plain
    assert 0.8 * plain < found[2] < 1.2 * plain
    assert found[3] < 0.1 * plain  # nearly all of it is made by the layers with a window


def _kld_of_first_chunk(output: str) -> float:
    """Return the running mean: of a run that is over at once, llama-perplexity's log at times loses the last lines."""
    found = re.search(r"^\s*1(?:\s+\S+ ±\s+\S+){2}\s+(\S+) ±", output, re.MULTILINE)
    assert found is not None, output[-2000:]
    return float(found[1])


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("kv-types 1", "kv-types 2", "line 1: the file is for another model, or of another version"),
        ("kv-types 1", "", "line 2: it is no file of K/V types, which begins with 'kv-types 1'"),
        ("architecture gemma3", "architecture llama", "its architecture is 'llama', the model's is 'gemma3'"),
        ("layers 6", "layers 7", "its layers is '7', the model's is '6'"),
        ("embedding 128", "embedding 576", "its embedding is '576', the model's is '128'"),
        ("embedding 128", "", "ends without a line 'embedding'"),
        ("layers 6", "layers 6\nlayers 6", "line 4: 'layers' is there twice"),
        ("layers 6", "layers 6\nlayer-types 6", "line 4: 'layer-types' is not known here"),
        ("layer 0-5 64 f16", "layer 0-5 192 f16", "layer 0 has 192 values of K and 64 of V for each token"),
        ("layer 0-5", "layer 0-6", "the model has no layer 0-6"),
        ("layer 0-5", "layer zero", "layers are written 'layer FIRST-LAST"),
        ("layer 0-5", "layer 0-4", "has no types for layer 5, which has a cache"),
        ("layer 0-5", "layer 0 64 f16 64 f16\nlayer 0-5", "line 6: layer 0 is there twice"),
        ("64 f16 64 f16", "64 turbo5 64 f16", "'turbo5' is no cache type"),
        ("64 f16 64 f16", "64 q4_K 64 f16", "'q4_K' is no cache type"),
        ("64 f16 64 f16", "64 f16 64 f16 64", "'64' is one word too many"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_line(gemma: _Model, old: str, new: str, reason: str) -> None:
    policy = gemma.policy("f16", "f16")
    text = "\n".join(policy.lines)
    assert old in text
    path = gemma.folder / "bad.kv-types"
    path.write_text(text.replace(old, new) + "\n")
    code, output = gemma.run(KVPair.by_layer(policy), file=path)
    assert reason in output, output[-2000:]
    assert "turbobench policy -m MODEL" in output
    assert code != 0


def test_a_file_that_is_not_there_is_refused(gemma: _Model) -> None:
    _, output = gemma.run(KVPair.by_layer(gemma.policy("f16", "f16")), file=Path("/nonexistent"))
    assert "the file of K/V types /nonexistent cannot be read" in output


def test_types_given_twice_are_refused(cpu_build: Build, gemma: _Model) -> None:
    pair = KVPair.by_layer(gemma.policy("f16", "turbo4"))
    code, output = _bench(cpu_build, gemma, pair, "-ctk", "q8_0")
    assert code != 0
    assert "K/V types are given both by the file" in output


def test_a_turbo_layer_that_is_not_rotated_is_refused(gemma: _Model) -> None:
    pair = KVPair.by_layer(gemma.policy("f16", "f16", l3=("q8_0", "turbo4")))
    code, output = gemma.run(pair, LLAMA_ATTN_ROT_DISABLE="1")
    assert code != 0
    assert "the attention rotation is not active" in output


def test_latent_attention_is_refused(cpu_build: Build, gemma: _Model, tmp_path: Path) -> None:
    model = tiny_models.deepseek2(tmp_path / "m.gguf")
    pair = KVPair.by_layer(gemma.policy("f16", "f16"))
    code, output = _bench(cpu_build, gemma, pair, "-m", str(model))
    assert code != 0
    assert "this model cannot have K/V types by layer" in output


def test_llama_bench_reports_the_file(cpu_build: Build, gemma: _Model) -> None:
    pair = KVPair.by_layer(gemma.policy("turbo4", "turbo3", l2=("f16", "q8_0")))
    code, output = _bench(cpu_build, gemma, pair)
    assert code == 0, output[-2000:]
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"build_commit')]
    assert [row["kv_types"] for row in rows] == [str(gemma.folder / "p.kv-types")] * 2
    assert pair.policy is not None
    observed = placement.observe(output.splitlines())
    assert [one.layer_types for one in observed] == [layer_types.as_logged(pair.policy.by_layer)] * 2


def _bench(build: Build, model: _Model, pair: KVPair, *extra: str) -> tuple[int, str]:
    assert pair.policy is not None
    path = model.folder / "p.kv-types"
    layer_types.write(pair.policy, path)
    request = llama_bench.BenchRequest(pair=pair, n_depth=0, n_prompt=8, n_gen=2, repetitions=1, kv_types=path)
    return _run([*llama_bench.argv(build.program("llama-bench"), model.model, request), *extra])


def test_a_slot_goes_on_only_with_the_types_it_was_saved_with(
    cpu_build: Build, model: Path, smollm: _Model, tmp_path: Path
) -> None:
    mine, other = tmp_path / "mine.kv-types", tmp_path / "other.kv-types"
    layer_types.write(smollm.policy("turbo4", "turbo3", l3=("f16", "q8_0")), mine)
    layer_types.write(smollm.policy("turbo4", "turbo3", l4=("f16", "q8_0")), other)
    options = ("-c", "512", "-fa", "on", "--slot-save-path", str(tmp_path), "--kv-center", str(smollm.center))
    with running(cpu_build, model, tmp_path / "a.log", *options, "--kv-types", str(mine)) as server:
        first = server.complete(0, "The lighthouse", 8)
        saved = server.post("/slots/0?action=save", filename="slot.bin")
        server.post("/slots/0?action=erase")
        assert server.post("/slots/0?action=restore", filename="slot.bin")["n_restored"] == saved["n_saved"] > 0
        assert server.complete(0, "The lighthouse", 8)["content"] == first["content"]
    with running(cpu_build, model, tmp_path / "b.log", *options, "--kv-types", str(other)) as server:
        with pytest.raises(urllib.error.HTTPError):
            server.post("/slots/0?action=restore", filename="slot.bin")
        assert "mismatched key type" in server.log.read_text()


@pytest.mark.parametrize("type_k", ["q8_0", "turbo4"])
def test_a_context_is_shifted_unless_a_layers_keys_are_turbo(
    cpu_build: Build, model: Path, smollm: _Model, tmp_path: Path, type_k: str
) -> None:
    path = tmp_path / "mine.kv-types"
    layer_types.write(smollm.policy("f16", "q8_0", **{f"l{layer}": (type_k, "q8_0") for layer in range(10)}), path)
    options = ("-c", "256", "-fa", "on", "--context-shift", "--kv-types", str(path))
    with running(cpu_build, model, tmp_path / "a.log", *options) as server:
        refused = "KV cache shifting is not supported for this context" in server.log.read_text()
        assert refused == (type_k == "turbo4")
        if not refused:
            server.complete(0, "The lighthouse", 300)
            assert "slot context shift" in server.log.read_text()
