"""Which processes a sweep starts, in which order, and what makes a cell the same cell."""

from dataclasses import dataclass, replace

from turbobench.config import CodecSpec, QualitySpec, SpeedSpec, SweepSpec
from turbobench.kvtypes import KVPair
from turbobench.matrix import Cell, Job, plan

PAIRS = tuple(map(KVPair.parse, ("f16", "q8_0", "turbo4", "q8_0/turbo4")))


@dataclass(frozen=True)
class _Model:
    sha256: str = "m" * 64


def _plan(spec: SweepSpec, threads: int | None = 2) -> list[Job]:
    return plan(spec, build_id="b1", model=_Model(), corpus_sha256="c" * 64, device="cpu0", threads=threads)


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
    spec = SweepSpec(name="x", pairs=PAIRS, quality=QualitySpec(floor=False))
    jobs = _plan(spec)
    assert [job.makes_base for job in jobs] == [True, False, False, False]
    assert [str(job.cells[0].pair) for job in jobs] == ["f16/f16", "q8_0/q8_0", "turbo4/turbo4", "q8_0/turbo4"]


def test_the_base_is_made_even_if_f16_is_not_asked_for() -> None:
    spec = SweepSpec(name="x", pairs=(KVPair.parse("turbo3"),), quality=QualitySpec(floor=False))
    assert [job.makes_base for job in _plan(spec)] == [True, False]


def test_the_floor_of_expanded_weights_is_f16_against_its_own_base() -> None:
    floors = [c for j in _plan(SweepSpec(name="x", pairs=PAIRS, quality=QualitySpec())) for c in j.cells]
    assert [str(c.pair) for c in floors if c.kind == "floor"] == ["f16/f16"]


def test_the_floor_of_quantized_weights_also_shows_their_activation_rounding() -> None:
    jobs = _plan(SweepSpec(name="x", pairs=PAIRS, quality=QualitySpec(weights="as-is")))
    assert [str(j.cells[0].pair) for j in jobs if j.cells[0].kind == "floor"] == ["f16/f16", "f16/q8_0"]


def test_small_batches_are_the_decode_path() -> None:
    for n_ubatch, path in ((1, "decode"), (2, "decode"), (512, "prefill")):
        jobs = _plan(SweepSpec(name="x", pairs=PAIRS, quality=QualitySpec(n_ubatch=n_ubatch)))
        assert {job.cells[0].path for job in jobs} == {path}


def test_codec_cells_do_not_depend_on_model_or_text() -> None:
    spec = SweepSpec(name="x", codec=CodecSpec(types=("q8_0", "turbo3")))
    ids = [
        [job.cells[0].id for job in plan(spec, build_id="b", model=_Model(sha), corpus_sha256=text, device="d")]
        for sha, text in (("a" * 64, "b" * 64), ("c" * 64, None))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_the_spec_decides_the_threads_and_the_machine_only_where_it_does_not() -> None:
    assert _plan(_speed())[0].cells[0].params["threads"] == 2
    assert _plan(_speed(threads=7))[0].cells[0].params["threads"] == 7
    assert "threads" not in _plan(_speed(), threads=None)[0].cells[0].params


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
