"""The file of K/V types by layer: what is read, what is written, and what is refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench import layer_types
from turbobench.errors import ConfigError
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerRun, LayerTypes, as_logged

TEXT = """\
kv-types 1
# by hand
architecture llama
layers 4
embedding 576
layer 0    192 turbo4  192 turbo3   # the first one
layer 1-3  192 turbo3  192 turbo3
"""
POLICY = LayerTypes.parse("mine", TEXT)


def test_a_file_is_read() -> None:
    assert (POLICY.name, POLICY.arch, POLICY.n_layer, POLICY.n_embd) == ("mine", "llama", 4, 576)
    assert POLICY.by_layer == {0: ("turbo4", "turbo3"), **dict.fromkeys((1, 2, 3), ("turbo3", "turbo3"))}


def test_what_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.kv-types"
    layer_types.write(POLICY, path, ["a remark"])
    assert layer_types.read(path) == POLICY
    assert LayerTypes.of("mine", POLICY.line) == POLICY


def test_the_cache_has_one_file_for_the_same_types(cache: Path) -> None:
    renamed = LayerTypes.parse("other", TEXT)
    assert layer_types.cached_file(POLICY) == layer_types.cached_file(renamed)
    assert layer_types.cached_file(POLICY).is_relative_to(cache)
    other = LayerTypes.build("mine", POLICY, {0: ("q8_0", "turbo3")})
    assert layer_types.cached_file(other) != layer_types.cached_file(POLICY)


def test_neighbours_that_are_alike_become_one_line() -> None:
    alike = LayerTypes.build("x", POLICY, {0: ("turbo3", "turbo3")})
    assert alike.runs == (LayerRun(0, 3, 192, "turbo3", 192, "turbo3"),)
    parted = LayerTypes.build("x", alike, {2: ("f16", "turbo3")})
    assert [str(run) for run in parted.runs] == [
        "layer 0-1 192 turbo3 192 turbo3",
        "layer 2 192 f16 192 turbo3",
        "layer 3 192 turbo3 192 turbo3",
    ]


def test_layers_of_another_width_stay_apart_and_count_for_what_they_store() -> None:
    text = TEXT.replace("layer 1-3  192 turbo3  192 turbo3", "layer 2  64 turbo3  128 turbo3")
    policy = LayerTypes.parse("wide", text)
    assert policy.n_values == 2 * 192 + 64 + 128
    bits = 192 * 4.25 + (192 + 64 + 128) * 3.25
    assert KVPair.by_layer(policy).bpv == bits / policy.n_values


def test_the_summary_is_what_the_log_prints() -> None:
    assert (POLICY.summary(0), POLICY.summary(1)) == ("3*turbo3+1*turbo4", "4*turbo3")
    assert as_logged(POLICY.by_layer) == "0:turbo4/turbo3 1:turbo3/turbo3 2:turbo3/turbo3 3:turbo3/turbo3"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("kv-types 1", "kv-types 2", "begins with 'kv-types 1'"),
        (TEXT, "", "begins with 'kv-types 1'"),
        ("layers 4\n", "", "no line 'layers'"),
        ("layers 4", "layers four", "are numbers"),
        ("layers 4", "layers 999999999", "at most 10000"),
        ("layers 4", "layers 4\nlayers 4", "line 5: 'layers 4' is not understood"),
        ("embedding 576", "embeding 576", "line 5: 'embeding 576' is not understood"),
        ("layer 1-3", "layer 1-4", "types for layer 4, and 4 layers"),
        ("layer 1-3", "layer 0-3", "types for layer 0 twice"),
        ("layer 1-3", "layer 3-1", "line 7: the last layer, 1, is before the first"),
        ("layer 1-3  192", "layer 1-3", "line 7: layers are written"),
        ("layer 1-3", "layer one", "line 7: layers are written"),
        (TEXT[TEXT.index("layer 0") :], "", "types for no layer"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_line(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError, match=reason) as caught:
        LayerTypes.parse("mine", TEXT.replace(old, new))
    assert "turbobench policy" in caught.value.hint


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file of K/V types"):
        layer_types.read(tmp_path / "none.kv-types")


def test_a_pair_of_a_policy_has_its_name_and_types() -> None:
    pair = KVPair.by_layer(POLICY, center=True)
    assert str(pair) == pair.short == "policy+c:mine"
    assert pair.types == ("3*turbo3+1*turbo4", "4*turbo3")
    assert pair.types_of(0) == ("turbo4", "turbo3")
    assert pair.types_used(0) == {"turbo3", "turbo4"}
    assert pair.uses_turbo
    assert pair.bpv == (7 * 3.25 + 4.25) / 8
    assert KVPair.of(pair.fields()) == pair


def test_a_pair_of_a_policy_is_given_as_a_file() -> None:
    argv = KVPair.by_layer(POLICY, center=True).argv(Path("means.gguf"), Path("x.kv-types"))
    assert argv == ["--kv-types", "x.kv-types", "--kv-center", "means.gguf"]


def test_a_policy_with_a_type_that_is_unknown_or_nothing_to_centre_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown cache type 'turbo5'"):
        KVPair.by_layer(LayerTypes.build("x", POLICY, {0: ("turbo5", "f16")}))
    floats = LayerTypes.build("x", POLICY, dict.fromkeys(range(4), ("f16", "turbo3")))
    with pytest.raises(ConfigError, match="no error to lose"):
        KVPair.by_layer(floats, center=True)
