"""From the KLD of single layers to a policy: what is measured, what is chosen, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_files import write_gguf
from tests.sweeps import PRINTED_KLD, Replay, prepared
from turbobench import layer_types, policy, store
from turbobench.config import QualitySpec
from turbobench.errors import ConfigError, ModelError, SweepIncompleteError
from turbobench.kvtypes import KVPair
from turbobench.layer_types import LayerTypes
from turbobench.model import ModelFacts, layer_types_for, preflight, read_facts
from turbobench.sensitivity import Cell, Plan, check_types, kld_by_cell, predicted, solve, sweep

pytestmark = pytest.mark.usefixtures("cache")
TYPES = ("turbo3", "turbo4")
WINDOW = QualitySpec(n_ctx=(512,), chunks=2, floor=False)


@pytest.fixture
def facts(tmp_path: Path) -> ModelFacts:
    return read_facts(write_gguf(tmp_path / "model.gguf"))


@pytest.fixture
def plan(facts: ModelFacts) -> Plan:
    return Plan(f16=layer_types_for(facts, "m", "f16", "f16"), types=TYPES, probes=TYPES, center=False)


def _kld(plan: Plan, *, hot: Cell) -> dict[Cell, float]:
    """KLD of a model in which one layer's side suffers a hundred times as much as every other."""
    of_type = {"turbo3": 0.0040, "turbo4": 0.0010}
    return {cell: of_type[cell[2]] * (100 if cell[:2] == hot[:2] else 1) for cell in plan.cells}


def test_each_cell_quantizes_one_side_of_one_layer(plan: Plan) -> None:
    assert len(plan.cells) == len(set(map(plan.pair_of, plan.cells))) == 4 * 2 * 2
    pair = plan.pair_of((2, 1, "turbo3"))
    assert pair.policy is not None
    assert pair.policy.by_layer == {0: ("f16", "f16"), 1: ("f16", "f16"), 2: ("f16", "turbo3"), 3: ("f16", "f16")}


def test_only_keys_are_centred(plan: Plan) -> None:
    centred = replace(plan, center=True)
    assert centred.pair_of((0, 0, "turbo3")).center
    assert not centred.pair_of((0, 1, "turbo3")).center


def test_bits_go_where_they_gain_most(plan: Plan) -> None:
    found = solve(plan, _kld(plan, hot=(1, 0, "")), 3.25 + 1 / 8)
    assert found.policy.by_layer == {
        **dict.fromkeys((0, 2, 3), ("turbo3", "turbo3")),
        1: ("turbo4", "turbo3"),
    }
    assert found.pair.bpv == 3.375
    assert found.predicted == pytest.approx(0.1 + 7 * 0.004)


def test_the_sum_over_layers_is_that_of_the_pairs_types(plan: Plan) -> None:
    kld = _kld(plan, hot=(0, 0, ""))
    assert predicted(kld, KVPair("turbo4", "turbo3"), plan.f16.by_layer) == pytest.approx(0.1 + 3 * 0.001 + 4 * 0.004)


def test_a_budget_below_the_smallest_type_is_refused(plan: Plan) -> None:
    with pytest.raises(ConfigError, match="below"):
        solve(plan, _kld(plan, hot=(0, 0, "")), 3.2)


def test_a_layer_that_was_not_measured_is_said(plan: Plan) -> None:
    kld = {plan.pair_of(cell): 0.1 for cell in plan.cells[1:]}
    with pytest.raises(SweepIncompleteError, match="1 of 16 pairs"):
        kld_by_cell(plan, kld)


def test_types_that_are_not_probed_are_scaled_by_what_they_cost_in_all_layers(plan: Plan) -> None:
    scaled = replace(plan, probes=("turbo3",), center=True)
    kld = {scaled.pair_of(cell): 0.01 * (1 + cell[0]) for cell in scaled.cells}
    assert len(kld) == 4 * 2
    kld |= {KVPair("turbo3", "f16", center=True): 0.4, KVPair("turbo4", "f16", center=True): 0.1}
    kld |= {KVPair("f16", "turbo3"): 0.2, KVPair("f16", "turbo4"): 0.04}
    found = kld_by_cell(scaled, kld)
    assert found[3, 0, "turbo3"] == found[3, 1, "turbo3"] == 0.04
    assert found[3, 0, "turbo4"] == pytest.approx(0.04 / 4)
    assert found[3, 1, "turbo4"] == pytest.approx(0.04 / 5)
    assert set(found) == set(plan.cells)
    del kld[KVPair("f16", "turbo4")]
    with pytest.raises(SweepIncompleteError, match="the first: f16/turbo4"):
        kld_by_cell(scaled, kld)


def test_the_uniform_pairs_go_up_from_the_smallest(plan: Plan) -> None:
    three = replace(plan, types=("turbo3", "turbo4", "q8_0"))
    assert [pair.short for pair in three.uniform] == ["turbo3", "turbo4/turbo3", "turbo4", "q8_0/turbo4", "q8_0"]


@pytest.mark.parametrize(("names", "reason"), [(["turbo5"], "'turbo5'"), (["f16"], "'f16'"), (["q8_0"] * 2, "twice")])
def test_types_that_cannot_be_chosen_from_are_refused(names: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_types(names)


def test_everything_is_measured_once_and_the_policies_are_written(plan: Plan, tmp_path: Path) -> None:
    ready = prepared(tmp_path / "in", sweep(plan, "policy-m", window=WINDOW))
    replay = Replay(n_vocab=ready.model.n_vocab)
    checked = policy.find(plan, ready, tmp_path / "out", [3.75, 3.5], executor=replay)
    # the base, each side of each layer in each type, the uniform pairs; the policies
    assert len(replay.commands) == 1 + 16 + 3 + 2
    assert [one.pair.bpv for one in checked] == sorted(one.pair.bpv for one in checked)
    uniform = next(one for one in checked if one.pair == KVPair("turbo3", "turbo3"))
    assert uniform.predicted == pytest.approx(8 * PRINTED_KLD)
    assert uniform.measured == pytest.approx(PRINTED_KLD)
    written = [one.path for one in checked if one.path is not None]
    assert sorted(path.name for path in written) == ["m-3.5.kv-types", "m-3.75.kv-types"]
    assert all(KVPair.by_layer(layer_types.read(path)).bpv <= 3.75 for path in written)
    records = [record for record in store.read(tmp_path / "out" / store.RECORDS) if record["kind"] == "cell"]
    assert {record["placement"] for record in records} == {"verified"}
    again = Replay(n_vocab=ready.model.n_vocab)
    assert policy.find(plan, ready, tmp_path / "out", [3.75, 3.5], executor=again) == checked
    assert again.commands == []


def test_a_failed_cell_ends_the_search_and_is_retried(plan: Plan, tmp_path: Path) -> None:
    ready = prepared(tmp_path / "in", sweep(plan, "policy-m", window=WINDOW))
    pair = plan.pair_of((3, 1, "turbo4"))
    assert pair.policy is not None
    broken = str(layer_types.cached_file(pair.policy))
    dying = Replay(n_vocab=ready.model.n_vocab, crash=lambda text: broken in text)
    with pytest.raises(SweepIncompleteError, match="1 jobs failed, the first: quality policy:v3-turbo4"):
        policy.find(plan, ready, tmp_path / "out", [3.75], executor=dying)
    mended = Replay(n_vocab=ready.model.n_vocab)
    policy.find(plan, ready, tmp_path / "out", [3.75], executor=mended)
    assert len(mended.commands) == 1 + 1  # what failed, and the policy: the base is kept


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arch": "qwen3"}, "for a model of qwen3"),
        ({"n_layer": 5}, "5 layers"),
        ({"n_embd": 576}, "embedding 576"),
    ],
)
def test_a_policy_of_another_model_is_refused(facts: ModelFacts, change: dict[str, str | int], reason: str) -> None:
    fits = layer_types_for(facts, "m", "turbo4", "turbo3")
    assert preflight(facts, KVPair.by_layer(fits)) is None
    fields = {"arch": fits.arch, "n_layer": fits.n_layer, "n_embd": fits.n_embd} | change
    other = LayerTypes("m", runs=fits.runs, **fields)  # type: ignore[arg-type]
    assert reason in (preflight(facts, KVPair.by_layer(other)) or "")


def test_a_policy_of_other_layers_is_refused(facts: ModelFacts) -> None:
    fits = layer_types_for(facts, "m", "turbo4", "turbo3")
    short = LayerTypes.of("m", fits.line.replace("layer 0-3", "layer 0-2"))
    narrow = LayerTypes.of("m", fits.line.replace("128 turbo4", "64 turbo4"))
    for other in (short, narrow):
        assert "other layers, or layers of another width" in (preflight(facts, KVPair.by_layer(other)) or "")


def test_a_model_without_a_cache_has_no_policy(tmp_path: Path) -> None:
    recurrent = read_facts(write_gguf(tmp_path / "r.gguf", settings={"attention__head_count_kv": 0}))
    with pytest.raises(ModelError, match="keeps no KV cache"):
        layer_types_for(recurrent, "m", "f16", "f16")
