"""The cost model behind the ETA."""

from __future__ import annotations

import pytest

from turbobench.eta import CPU_REFERENCE, GPU_REFERENCE, EtaModel, Work


def speed_job(depth: int) -> list[Work]:
    return [
        Work.of("speed-prefill", [(0, 512), (0, depth), (depth, 512)]),
        Work.of("speed-decode", [(depth, 16)]),
    ]


def test_tokens_and_the_context_they_attend_to_are_added_up() -> None:
    assert Work.of("speed-prefill", [(0, 100), (1000, 10)]) == Work(
        kind="speed-prefill", tokens=110, token_contexts=100 * 50 + 10 * 1005
    )


def test_before_the_first_job_a_deeper_one_is_expected_to_take_longer() -> None:
    eta = EtaModel()
    assert eta.predict(speed_job(4096)) > 2 * eta.predict(speed_job(0)) > 0


def test_one_finished_job_moves_the_expectation_of_all_to_this_machine() -> None:
    eta = EtaModel()
    before = eta.predict(speed_job(4096))
    eta.observe(speed_job(0), 10 * eta.predict(speed_job(0)))
    assert eta.predict(speed_job(4096)) == pytest.approx(10 * before, rel=0.25)


def test_the_fit_finds_the_costs_of_a_machine_unlike_the_reference() -> None:
    def true_cost(depth: int) -> float:
        prefill, decode = speed_job(depth)
        return 3 + 0.001 * prefill.tokens + 2e-5 * prefill.token_contexts + 0.005 * decode.tokens

    eta = EtaModel()
    for depth in (0, 512, 1024, 2048, 4096) * 3:
        eta.observe(speed_job(depth), true_cost(depth))
    for depth in (256, 3072):
        assert eta.predict(speed_job(depth)) == pytest.approx(true_cost(depth), rel=0.2)


def test_a_larger_model_is_expected_to_take_longer() -> None:
    tenfold = EtaModel(n_params=10 * CPU_REFERENCE.n_params)
    assert tenfold.predict(speed_job(0)) == pytest.approx(10 * EtaModel().predict(speed_job(0)))


def test_a_gpu_is_expected_to_prefill_128k_tokens_of_an_8b_model_in_half_a_minute() -> None:
    prefill = Work.of("speed-prefill", [(0, 131072)])
    assert 30 < EtaModel(GPU_REFERENCE).predict([prefill]) < 40
