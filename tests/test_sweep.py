"""A whole sweep with an executor that replays captured output of the real programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sweeps import Replay, prepared
from turbobench import proc, store
from turbobench.config import SweepSpec
from turbobench.errors import ConfigError, CorpusError, DiskFullError, StoreError
from turbobench.machine import host_id
from turbobench.sweep import Prepared, jobs_of, pending, run_sweep
from turbobench.sweep_view import duration, label

pytestmark = pytest.mark.usefixtures("cache")

SPEC = SweepSpec.model_validate(
    {
        "name": "tiny",
        "pairs": ["f16", "q8_0", "q8_0/turbo4"],
        "speed": {"depths": [0, 128], "pp": 64, "tg": 4, "rounds": 2, "repetitions": 2, "threads": 2},
        "quality": {"n_ctx": 512, "chunks": 2},
        "codec": {"blocks": 64, "types": ["turbo4"]},
    }
)
N_CELLS = 3 * 2 * 2 * 2 + 4 + 1


@pytest.fixture
def sweep(tmp_path: Path) -> Prepared:
    return prepared(tmp_path / "in", SPEC)


@pytest.fixture
def replay(sweep: Prepared) -> Replay:
    return Replay(n_vocab=sweep.model.n_vocab)


def cells(folder: Path) -> list[store.Record]:
    return [record for record in store.read(folder / store.RECORDS) if record["kind"] == "cell"]


def test_every_planned_cell_is_measured_and_proven(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    end = run_sweep(sweep, tmp_path / "out", executor=replay)
    assert (end.n_measured, end.failed) == (N_CELLS, ())
    assert {record["placement"] for record in cells(tmp_path / "out")} == {"verified"}


def test_a_second_run_starts_nothing_and_changes_nothing(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    run_sweep(sweep, tmp_path, executor=replay)
    before = (tmp_path / store.RECORDS).read_bytes()
    again = Replay(n_vocab=sweep.model.n_vocab)
    assert run_sweep(sweep, tmp_path, executor=again).n_cached == N_CELLS
    assert again.commands == []
    assert (tmp_path / store.RECORDS).read_bytes() == before


def test_a_set_of_another_machine_is_not_continued(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    run_sweep(sweep, tmp_path / "set", executor=replay)
    records = tmp_path / "set" / store.RECORDS
    foreign = records.read_text().replace(host_id(), "0123456789ab")
    records.write_text(foreign)
    with pytest.raises(StoreError, match="measured on another machine"):
        run_sweep(sweep, tmp_path / "set", executor=replay)
    assert records.read_text() == foreign


def test_a_crash_costs_one_job_and_the_next_run_retries_only_that(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    dying = replace(replay, crash=lambda text: "-ctv turbo4" in text and "-d 128" in text)
    end = run_sweep(sweep, tmp_path, executor=dying)
    assert end.n_measured == N_CELLS - 4
    assert end.failed[0].startswith("speed q8_0/turbo4 d128 r0: llama-bench: killed by SIGSEGV")
    failed = [record for record in cells(tmp_path) if record["outcome"] == "failed"]
    assert {record["ending"] for record in failed} == {"killed by SIGSEGV"}
    assert all(record["hint"] and "$TURBOBENCH_CACHE/logs" in record["log"] for record in failed)
    mended = Replay(n_vocab=sweep.model.n_vocab)
    assert run_sweep(sweep, tmp_path, executor=mended).n_measured == 4
    assert len(mended.commands) == 2


def test_the_base_is_made_once_and_removed_afterwards(
    sweep: Prepared, replay: Replay, tmp_path: Path, cache: Path
) -> None:
    run_sweep(sweep, tmp_path, executor=replay)
    made = [text for text in replay.commands if "llama-perplexity" in text and "--kl-divergence " not in text]
    assert len(made) == 1
    assert list((cache / "base").iterdir()) == []


def test_the_base_is_made_again_when_only_a_comparison_is_missing(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    dying = replace(replay, crash=lambda text: "--kl-divergence " in text and "turbo4" in text)
    assert len(run_sweep(sweep, tmp_path, executor=dying).failed) == 1
    mended = Replay(n_vocab=sweep.model.n_vocab)
    run_sweep(sweep, tmp_path, executor=mended)
    assert ["--kl-divergence " in text for text in mended.commands] == [False, True]


def test_a_base_that_cannot_be_made_is_tried_once_and_fails_every_comparison(
    sweep: Prepared, replay: Replay, tmp_path: Path, cache: Path
) -> None:
    dying = replace(replay, crash=lambda text: "llama-perplexity" in text)
    end = run_sweep(sweep, tmp_path, executor=dying)
    assert sum("llama-perplexity" in text for text in dying.commands) == 1
    assert len(end.failed) == 4
    assert all("base could not be made" in reason for reason in end.failed[1:])
    assert list((cache / "base").iterdir()) == []


def test_ctrl_c_keeps_what_was_finished(sweep: Prepared, replay: Replay, tmp_path: Path, cache: Path) -> None:
    class Interrupting(Replay):
        def __call__(self, command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
            if len(self.commands) == 6:
                raise KeyboardInterrupt
            return super().__call__(command, on_line=on_line)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, tmp_path, executor=Interrupting(n_vocab=sweep.model.n_vocab))
    kept = len(cells(tmp_path))
    assert 0 < kept < N_CELLS
    assert len(list((cache / "base").iterdir())) == 1  # the comparisons to come need not make it again
    assert run_sweep(sweep, tmp_path, executor=replay).n_measured == N_CELLS - kept
    assert list((cache / "base").iterdir()) == []


def test_a_text_that_is_too_short_ends_the_sweep_and_loses_nothing(sweep: Prepared, tmp_path: Path) -> None:
    class Short(Replay):
        def _output(self, argv: list[str]) -> tuple[str, str]:
            if "llama-perplexity" in argv[0]:
                return "", (Path(__file__).parent / "data" / "perplexity-too-short.stderr").read_text(encoding="utf-8")
            return super()._output(argv)

    with pytest.raises(CorpusError, match="161 tokens where 1024"):
        run_sweep(sweep, tmp_path, executor=Short(n_vocab=sweep.model.n_vocab))
    assert [record["cell"]["kind"] for record in cells(tmp_path)] == ["nmse"]


def test_a_base_larger_than_the_disk_is_refused_before_anything_is_evaluated(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    huge = SweepSpec.model_validate(
        {"name": "huge", "pairs": ["q8_0"], "quality": {"n_ctx": 8192, "chunks": 9_000_000}}
    )
    with pytest.raises(DiskFullError, match="GB free"):
        run_sweep(replace(sweep, spec=huge), tmp_path, executor=replay)
    assert replay.commands == []


def test_a_model_that_turbo_cannot_serve_is_skipped_with_the_reason(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    odd = replace(sweep, model=replace(sweep.model, head_dim_k=96, head_dim_v=96))
    end = run_sweep(odd, tmp_path, executor=replay)
    assert end.n_skipped == 2 * 2 * 2 + 1
    assert not any("turbo4" in text and "turbobench.native" not in text for text in replay.commands)
    assert "96" in next(record["reason"] for record in cells(tmp_path) if record["outcome"] == "skipped")


def test_only_runs_what_matches_and_an_unmatched_pattern_is_an_error(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    assert run_sweep(sweep, tmp_path, only="nmse *", executor=replay).n_measured == 1
    with pytest.raises(ConfigError, match="no job matches"):
        run_sweep(sweep, tmp_path, only="nmse q9", executor=replay)


def test_a_job_is_pending_while_any_cell_of_it_is(sweep: Prepared) -> None:
    jobs = jobs_of(sweep)
    job = next(job for job in jobs if len(job.cells) == 2)
    assert job in pending(jobs, frozenset({(job.cells[0].id, job.round)}), None)
    assert job not in pending(jobs, frozenset((cell.id, job.round) for cell in job.cells), None)
    assert label(job).startswith("speed ")


@pytest.mark.parametrize(("seconds", "text"), [(44.6, "45 s"), (600, "10 min"), (12000, "3 h 20 min")])
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
