"""How a pair of cache types and its properties are written, read, and put into a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench.backends import BACKENDS
from turbobench.errors import ConfigError
from turbobench.kvtypes import KV_TYPES, KVPair


@pytest.mark.parametrize(
    ("text", "pair", "long"),
    [
        ("turbo4", KVPair("turbo4", "turbo4"), "turbo4/turbo4"),
        ("q8_0/turbo4", KVPair("q8_0", "turbo4"), "q8_0/turbo4"),
        ("turbo4+c", KVPair("turbo4", "turbo4", center=True), "turbo4+c/turbo4"),
        ("turbo4+c/turbo3", KVPair("turbo4", "turbo3", center=True), "turbo4+c/turbo3"),
        ("q4_0:unrotated", KVPair("q4_0", "q4_0", unrotated=True), "q4_0/q4_0:unrotated"),
        ("q8_0/q4_0:unrotated", KVPair("q8_0", "q4_0", unrotated=True), "q8_0/q4_0:unrotated"),
        ("q4_0+c/q4_0:unrotated", KVPair("q4_0", "q4_0", center=True, unrotated=True), "q4_0+c/q4_0:unrotated"),
        (" q8_0 / turbo4 ", KVPair("q8_0", "turbo4"), "q8_0/turbo4"),
    ],
)
def test_a_pair_is_read_from_what_it_is_written_as(text: str, pair: KVPair, long: str) -> None:
    assert KVPair.parse(text) == pair
    assert str(pair) == long
    assert KVPair.parse(long) == KVPair.parse(pair.short) == pair


def test_the_short_name_says_equal_types_once() -> None:
    names = ("turbo4/turbo4", "q4_0+c/q4_0", "q4_0/q4_0:unrotated", "turbo4+c/turbo3")
    assert [KVPair.parse(name).short for name in names] == ["turbo4", "q4_0+c", "q4_0:unrotated", "turbo4+c/turbo3"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("turbo5", "did you mean 'turbo4'"),
        ("q4_0:rotated", "unknown mark ':rotated'"),
        ("q8_0/turbo4+c", "only K can be centred"),
        ("f16+c/q8_0", "no error to lose"),
        ("f16:unrotated", "only quantized types are rotated"),
        ("turbo4:unrotated", "made for rotated values"),
        ("q8_0/turbo3:unrotated", "made for rotated values"),
    ],
)
def test_a_property_without_a_meaning_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        KVPair.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["turbo4", "turbo4+c/turbo3", "q4_0:unrotated"])
def test_the_fields_of_a_pair_give_it_back_and_name_only_what_it_has(text: str) -> None:
    pair = KVPair.parse(text)
    assert KVPair.of(pair.fields()) == pair
    assert all(value is True or name.startswith("type_") for name, value in pair.fields().items())


def test_the_properties_reach_the_command() -> None:
    center = Path("means.gguf")
    assert KVPair.parse("q8_0/turbo4").argv(center) == ["-ctk", "q8_0", "-ctv", "turbo4"]
    assert KVPair.parse("turbo4+c").argv(center)[-2:] == ["--kv-center", "means.gguf"]
    assert KVPair.parse("q4_0:unrotated").env == {"LLAMA_ATTN_ROT_DISABLE": "1"}
    assert KVPair.parse("q4_0").env == {"LLAMA_ATTN_ROT_DISABLE": "0"}


def test_the_trellis_is_a_type_of_the_cpu_alone_in_the_bytes_of_turbo3() -> None:
    trellis = KV_TYPES["turbo3t"]
    assert [backend for backend in BACKENDS if trellis.runs_on(backend)] == ["cpu"]
    assert all(KV_TYPES["turbo3"].runs_on(backend) for backend in BACKENDS)
    assert trellis.bpv == KV_TYPES["turbo3"].bpv == 3.25


def test_properties_cost_no_bits() -> None:
    assert KVPair.parse("turbo4+c/turbo3").bpv == KVPair.parse("turbo4/turbo3").bpv == 3.75
    assert KVPair.parse("q4_0:unrotated").bpv == KV_TYPES["q4_0"].bpv
