"""Which processes a sweep starts, in which order, and what makes a cell the same cell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from turbobench.base_logits import base_path
from turbobench.config import CodecSpec, QualitySpec, SpeedSpec, SweepSpec
from turbobench.kvtypes import KVPair
from turbobench.matrix import Cell, Job, plan
from turbobench.sweep_view import label

PAIRS = tuple(map(KVPair.parse, ("f16", "q8_0", "turbo4", "q8_0/turbo4")))


@dataclass(frozen=True)
class _Model:
    sha256: str = "m" * 64


def _plan(spec: SweepSpec, kv_center: str | None = None) -> list[Job]:
    return plan(spec, build_id="b1", model=_Model(), corpus_sha256="c" * 64, device="cpu0", kv_center=kv_center)


def _quality(pairs: Sequence[KVPair] = PAIRS, **changes: object) -> SweepSpec:
    return SweepSpec(name="x", pairs=tuple(pairs), quality=QualitySpec.model_validate(changes))


def _said(jobs: list[Job]) -> list[str]:
    return [label(job) for job in jobs]


def _speed(**changes: object) -> SweepSpec:
    return SweepSpec(name="x", pairs=PAIRS, speed=SpeedSpec.model_validate({"depths": (0, 4096), "tg": 16, **changes}))


def test_one_process_measures_prompt_and_generation_of_one_pair_at_one_depth() -> None:
    for job in _plan(_speed()):
        assert [cell.test for cell in job.cells] == ["pp512", "tg16"]
        assert [cell.path for cell in job.cells] == ["prefill", "decode"]
        assert len({(cell.pair, cell.n_depth) for cell in job.cells}) == 1


def test_every_pair_depth_and_round_is_planned_once() -> None:
    jobs = _plan(_speed(rounds=3))
    places = [(job.round, job.cells[0].n_depth, job.cells[0].pair) for job in jobs]
    assert len(set(places)) == len(places) == 3 * 2 * len(PAIRS)


def test_odd_rounds_take_the_pairs_in_reverse_so_that_drift_cancels() -> None:
    jobs = _plan(_speed(rounds=2, depths=(0,)))
    assert [job.cells[0].pair for job in jobs] == [*PAIRS, *reversed(PAIRS)]


def test_a_test_of_no_tokens_is_left_out() -> None:
    assert [cell.test for cell in _plan(_speed(pp=0, depths=(0,), rounds=1))[0].cells] == ["tg16"]


def test_rounds_repeat_the_same_cells() -> None:
    jobs = _plan(_speed(rounds=4))
    assert len({cell.id for job in jobs for cell in job.cells}) == 2 * 2 * len(PAIRS)


def test_single_depths_may_have_more_rounds() -> None:
    jobs = _plan(_speed(rounds=1, rounds_at={0: 3}, depths=(0, 4096)))
    depths = [job.cells[0].n_depth for job in jobs]
    assert depths.count(0) == 3 * depths.count(4096)
    assert max(job.round for job in jobs if job.cells[0].n_depth == 0) == 2


def test_more_rounds_keep_the_ids_of_the_first_ones() -> None:
    few, many = ({cell.id for job in _plan(_speed(rounds=n)) for cell in job.cells} for n in (1, 5))
    assert few == many


def test_the_f16_base_comes_before_every_kld_and_is_measured_once() -> None:
    jobs = _plan(_quality(floor=False))
    assert [job.makes_base for job in jobs] == [True, False, False, False]
    assert [str(job.cells[0].pair) for job in jobs] == ["f16/f16", "q8_0/q8_0", "turbo4/turbo4", "q8_0/turbo4"]


def test_the_base_is_made_even_if_f16_is_not_asked_for() -> None:
    spec = _quality([KVPair.parse("turbo3")], floor=False)
    assert [job.makes_base for job in _plan(spec)] == [True, False]


def test_the_floor_is_what_harmless_changes_show() -> None:
    jobs = _plan(_quality(PAIRS[:1]))
    floors = [cell for job in jobs for cell in job.cells if cell.kind == "floor"]
    assert [(str(cell.pair), cell.params["n_ubatch"]) for cell in floors] == [("f16/f16", 32), ("f32/f32", 512)]


def test_the_floor_of_quantized_weights_also_shows_their_activation_rounding() -> None:
    jobs = _plan(_quality(weights="as-is"))
    floors = [str(j.cells[0].pair) for j in jobs if j.cells[0].kind == "floor"]
    assert floors == ["f16/f16", "f32/f32", "f16/q8_0"]


def test_the_decode_path_is_one_token_a_batch_with_fewer_chunks_and_the_base_of_prefill() -> None:
    jobs = _plan(_quality(decode={"chunks": 2, "pairs": ["turbo4"]}))
    decode = [job.cells[0] for job in jobs if job.cells[0].path == "decode"]
    assert [(cell.kind, str(cell.pair)) for cell in decode] == [("floor", "f16/f16"), ("quality", "turbo4/turbo4")]
    assert {(cell.params["n_ubatch"], cell.chunks) for cell in decode} == {(1, 2)}
    assert {base_path(cell) for cell in decode} == {base_path(jobs[0].cells[0])}
    assert sum(job.makes_base for job in jobs) == 1


def test_each_length_of_context_has_a_base_and_chunks_of_its_own_and_is_finished_before_the_next() -> None:
    jobs = _plan(_quality(n_ctx=[2048, 8192], chunks=8, chunks_at={8192: 3}, decode={"n_ctx": [2048, 8192]}))
    cells = [job.cells[0] for job in jobs]
    assert {(cell.n_ctx, cell.chunks) for cell in cells if cell.path == "prefill"} == {(2048, 8), (8192, 3)}
    lengths = [cell.n_ctx for cell in cells]
    assert lengths == sorted(lengths, key=lambda n_ctx: n_ctx or 0)
    assert len({base_path(cell) for cell in cells}) == 2


def test_the_model_as_given_is_measured_beside_its_expanded_weights() -> None:
    jobs = _plan(_quality(floor=False, as_given={"chunks": 1, "pairs": ["q8_0"]}))
    given = [job for job in jobs if job.cells[0].params["weights"] == "as-is"]
    assert _said(given) == ["quality f16/f16 c2048 as-is", "quality q8_0/q8_0 c2048 as-is"]
    assert given[0].makes_base
    assert base_path(given[0].cells[0]) != base_path(jobs[0].cells[0])


def test_a_centred_cell_is_named_by_the_content_of_its_file_and_others_are_not() -> None:
    pairs = [KVPair.parse(name) for name in ("turbo4", "turbo4+c/turbo4")]
    one, other = (_plan(_quality(pairs, floor=False), kv_center=sha * 64)[1:] for sha in "ab")
    assert one[0].cells[0].id == other[0].cells[0].id
    assert one[1].cells[0].id != other[1].cells[0].id
    assert one[1].cells[0].fields()["center"] is True
    assert base_path(one[0].cells[0]) == base_path(one[1].cells[0])


def test_an_unrotated_pair_is_a_cell_of_its_own_with_the_same_base() -> None:
    rotated, unrotated = (
        j.cells[0] for j in _plan(_quality(list(map(KVPair.parse, ("q4_0", "q4_0:unrotated"))), floor=False))[1:]
    )
    assert rotated.id != unrotated.id
    assert "unrotated" not in rotated.fields()
    assert base_path(rotated) == base_path(unrotated)


def test_codec_cells_do_not_depend_on_model_or_text() -> None:
    spec = SweepSpec(name="x", codec=CodecSpec(types=("q8_0", "turbo3")))
    ids = [
        [job.cells[0].id for job in plan(spec, build_id="b", model=_Model(sha), corpus_sha256=text, device="d")]
        for sha, text in (("a" * 64, "b" * 64), ("c" * 64, None))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_the_spec_decides_the_threads_and_the_program_where_it_does_not() -> None:
    assert _plan(_speed(threads=7))[0].cells[0].params["threads"] == 7
    assert "threads" not in _plan(_speed())[0].cells[0].params


CELL = Cell(
    kind="speed",
    pair=KVPair("q8_0", "turbo4"),
    test="tg16",
    build_id="b",
    device="d",
    model_sha256="m",
    n_depth=4096,
    path="decode",
    params={"threads": 2},
)


def test_a_cell_id_is_16_hex_digits_and_the_same_in_every_process() -> None:
    # Written down so that a change which orphans all stored results is a change somebody decides on.
    assert CELL.id == "f4f9177d72d56594"


def test_anything_that_changes_the_measurement_changes_the_id() -> None:
    others = [
        replace(CELL, pair=KVPair("turbo4", "q8_0")),
        replace(CELL, pair=KVPair("q8_0", "turbo4", center=True)),
        replace(CELL, pair=KVPair("q8_0", "turbo4", unrotated=True)),
        replace(CELL, test="tg32"),
        replace(CELL, build_id="c"),
        replace(CELL, device="e"),
        replace(CELL, model_sha256="n"),
        replace(CELL, n_depth=0),
        replace(CELL, params={"threads": 4}),
        replace(CELL, corpus_sha256="t"),
    ]
    assert len({CELL.id, *(cell.id for cell in others)}) == len(others) + 1


def test_the_order_in_which_parameters_are_given_does_not_matter() -> None:
    one, other = (replace(CELL, params=p) for p in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one.id == other.id


def test_the_fields_of_a_cell_are_json_values_with_the_types_named() -> None:
    fields = CELL.fields()
    assert (fields["type_k"], fields["type_v"], fields["n_depth"], fields["n_ctx"]) == ("q8_0", "turbo4", 4096, None)
    assert "pair" not in fields
