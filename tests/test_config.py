"""What a sweep file may say, and what its author reads when it says something else."""

from pathlib import Path

import pytest

from turbobench import layer_types
from turbobench.config import QualitySpec, SpeedSpec, SweepSpec, load_sweep
from turbobench.errors import ConfigError
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerRun, LayerTypes
from turbobench.strict_yaml import load_yaml


def _sweep(tmp_path: Path, text: str) -> SweepSpec:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    return load_sweep(file)


def _refusal(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _sweep(tmp_path, text)
    assert "\n" not in caught.value.what
    assert caught.value.hint
    return caught.value


def test_a_sweep_is_found_by_its_bare_name() -> None:
    assert load_sweep("demo").name == "demo"


def test_a_sweep_in_configs_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_sweep("configs/cpu-smollm2.yaml").name == "cpu-smollm2"


def test_the_committed_set_covers_what_the_readme_promises() -> None:
    spec = load_sweep("cpu-smollm2")
    assert spec.quality is not None
    assert spec.speed is not None
    assert (spec.quality.n_ctx, spec.quality.weights) == ((2048,), "f16")
    assert spec.quality.chunks >= 8
    assert len(spec.quality_pairs) == 12
    assert {0, 4096} <= set(spec.speed.depths)
    assert {KVPair.parse(name) for name in ("f16", "q8_0", "q4_0", "turbo4", "turbo3")} <= set(spec.speed_pairs)


def test_the_quality_set_covers_what_its_issue_asks_for() -> None:
    spec = load_sweep("quality-smollm2")
    assert spec.quality is not None
    assert spec.quality.decode is not None
    assert spec.quality.weights == "f16"
    assert spec.quality.chunks_of(2048) >= 8
    assert spec.quality.chunks_of(8192) >= 3
    pairs = set(spec.quality_pairs)
    stock = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
    wanted = [*stock, *(f"{name}:unrotated" for name in stock), "turbo4", "turbo3", "turbo4/turbo3", "q8_0/turbo4"]
    wanted += ["q8_0/turbo3", "turbo4+c/turbo4", "turbo4+c/turbo3", "turbo3+c/turbo3", "q4_0+c/q4_0"]
    assert set(map(KVPair.parse, wanted)) <= pairs
    turbo = {pair for pair in pairs if pair.uses_turbo}
    assert turbo <= set(spec.quality.decode.pairs or ())
    assert [pair.short for pair in spec.centered if not pair.uses_turbo] == ["q4_0+c"]


def test_an_unknown_sweep_name_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'demo'") as caught:
        load_sweep("dmeo")
    assert "cpu-smollm2" in caught.value.hint
    assert "pin" not in caught.value.hint.split(": ")[1].split(", ")


def test_pairs_are_lists_products_and_explicit_pairs_in_the_order_written(tmp_path: Path) -> None:
    spec = _sweep(
        tmp_path,
        "name: x\npairs: [f16, q8_0/turbo4, {product: {k: [q8_0, turbo4], v: [turbo4, turbo3]}}]\nspeed: {}\n",
    )
    assert [str(pair) for pair in spec.pairs] == [
        "f16/f16",
        "q8_0/turbo4",
        "q8_0/turbo3",
        "turbo4/turbo4",
        "turbo4/turbo3",
    ]


def test_a_product_may_stand_alone(tmp_path: Path) -> None:
    spec = _sweep(tmp_path, "name: x\npairs: {product: {k: f16, v: [q8_0, turbo3]}}\nspeed: {}\n")
    assert [str(pair) for pair in spec.pairs] == ["f16/q8_0", "f16/turbo3"]


def test_a_section_may_have_pairs_of_its_own(tmp_path: Path) -> None:
    spec = _sweep(tmp_path, "name: x\npairs: [f16]\nspeed: {pairs: [turbo4]}\nquality: {}\n")
    assert spec.speed_pairs == (KVPair("turbo4", "turbo4"),)
    assert spec.quality_pairs == (KVPair("f16", "f16"),)


def test_an_unknown_key_names_its_path_and_the_nearest_key(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path, "name: x\npairs: [f16]\nspeed:\n  depht: [0]\n")
    assert "sweep.yaml" in refusal.what
    assert "unknown key 'speed.depht'; did you mean 'depths'?" in refusal.what
    assert "rounds" in refusal.hint
    assert "n_ctx" not in refusal.hint


def test_an_unknown_type_gets_a_suggestion(tmp_path: Path) -> None:
    refusal = _refusal(tmp_path, "name: x\npairs: [turbo5]\nspeed: {}\n")
    assert "'pairs'" in refusal.what
    assert "unknown cache type 'turbo5'; did you mean 'turbo" in refusal.what


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: x\npairs: [f16]\nspeed: {depths: [-1]}\n", "'speed.depths.0' should be greater than or equal to 0"),
        ("name: x\npairs: [f16]\nspeed: {depths: [0, 0]}\n", "the same value is listed twice"),
        ("name: x\npairs: [f16]\nspeed: {depths: []}\n", "'speed.depths'"),
        ("name: x\npairs: [f16]\nspeed: {rounds_at: {8: 2}}\n", "rounds_at names depth 8, which is not measured"),
        ("name: x\npairs: [f16]\nspeed: {rounds: 0}\n", "'speed.rounds' should be greater than or equal to 1"),
        ("name: x\npairs: [f16]\nspeed: {rounds: true}\n", "'speed.rounds' should be a valid integer, not True"),
        ("name: x\npairs: [f16]\nspeed: {rounds: many}\n", "'speed.rounds' should be a valid integer, not 'many'"),
        ("name: x\npairs: [f16]\nspeed: {pp: 0, tg: 0}\n", "'speed': pp and tg are both 0"),
        ("name: x\npairs: [f16, turbo4, f16/f16]\nspeed: {}\n", "the pair f16/f16 is listed twice"),
        ("name: x\npairs: [{product: {k: [f16]}}]\nspeed: {}\n", "{product: {k: [types], v: [types]}}"),
        ("name: x\npairs: [4]\nspeed: {}\n", "not 4"),
        ("name: x\npairs: [f16]\nquality: {weights: q8}\n", "'quality.weights' should be 'f16' or 'as-is', not 'q8'"),
        ("name: x\npairs: [f16]\nquality: {n_ctx: 64}\n", "'quality.n_ctx.0' should be greater than or equal to 256"),
        ("name: x\npairs: [f16]\n", "nothing to measure"),
        ("name: x\nspeed: {}\n", "speed has no K/V pairs"),
        ("name: x\ncodec: {types: [f16]}\n", "f16 is not quantized"),
        ("name: x\ncodec: {types: [turbo4, turbo4]}\n", "listed twice"),
        ("name: ../x\npairs: [f16]\nspeed: {}\n", "'name'"),
        ("pairs: [f16]\nspeed: {}\n", "'name' is missing"),
        ("name: x\nspeed: {}\nspeed: {}\n", "sweep.yaml:3:1 is not valid YAML: the key 'speed' twice"),
        ("name: [x\n", "sweep.yaml:2:1 is not valid YAML"),
        ("name: \x00\n", "is not valid YAML"),
        ("", "is empty"),
        ("- f16\n", "is not a mapping"),
        ("name: x\npairs: [f16]\nquality: {chunks_at: {4096: 1}}\n", "names n_ctx 4096, which is not measured"),
        ("name: x\npairs: [f16]\nquality: {decode: {n_ctx: 512}}\n", "decode names n_ctx 512"),
        ("name: x\npairs: [f16]\nquality: {chunks: 2, decode: {chunks: 3}}\n", "more chunks of 2048 than prefill"),
        ("name: x\npairs: [f16]\nquality: {decode: {pairs: [q4_0]}}\n", "decode names q4_0, and there is no prefill"),
        ("name: x\npairs: [f16]\nquality: {weights: as-is, as_given: {}}\n", "as_given repeats"),
        ("name: x\npairs: ['q4_0:plain']\nspeed: {}\n", "unknown mark ':plain'"),
        ("name: x\npairs: [f16]\nniah: {positions: [1.5]}\n", "'niah.positions.0' should be less than or equal to 1"),
        ("name: x\npairs: [f16]\nniah: {keys: [17]}\n", "'niah.keys.0' should be less than or equal to 16"),
        ("name: x\nniah: {}\n", "niah has no K/V pairs"),
    ],
)
def test_a_bad_value_is_refused_in_one_line(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in _refusal(tmp_path, text).what


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_yaml(file, SweepSpec)


def test_a_spec_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_sweep("demo").name = "other"


def test_defaults_are_a_usable_measurement() -> None:
    assert SpeedSpec().depths == (0,)
    assert QualitySpec().weights == "f16"


def test_a_policy_is_read_from_the_file_that_a_pair_names(tmp_path: Path) -> None:
    policy = LayerTypes("mine", "llama", 2, 64, (LayerRun(0, 1, 64, "turbo4", 64, "turbo3"),))
    layer_types.write(policy, tmp_path / "mine.kv-types")
    path = tmp_path / "mine.kv-types"
    spec = _sweep(tmp_path, f'name: x\npairs: [f16, "policy:{path}", "policy+c:{path}"]\nspeed: {{}}\n')
    assert spec.speed_pairs[1:] == (KVPair.by_layer(policy), KVPair.by_layer(policy, center=True))
    assert spec.centered == (KVPair.by_layer(policy, center=True),)


def test_a_policy_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file of K/V types nowhere"):
        _sweep(tmp_path, 'name: x\npairs: ["policy:nowhere.kv-types"]\nspeed: {}\n')
