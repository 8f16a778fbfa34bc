"""A whole sweep with an executor that replays captured output of the real programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests import fake_tools
from tests.gguf_files import write_center_file, write_gguf
from tests.sweeps import Replay, prepared
from turbobench import layer_types, proc, report, store
from turbobench.config import SweepSpec
from turbobench.errors import (
    ConfigError,
    CorpusError,
    DiskFullError,
    ModelError,
    QualityGateError,
    StoreError,
    ToolchainError,
)
from turbobench.gpu import Gpu
from turbobench.hashing import sha256_of
from turbobench.layer_types import LayerTypes
from turbobench.machine import host_id
from turbobench.model import layer_types_for
from turbobench.prepare import Request, check_types, inputs, prepare, preview
from turbobench.sweep import KVCenter, Prepared, jobs_of, pending, run_sweep
from turbobench.sweep_view import duration, label
from turbobench.synth import SMOKE_SHAPE, write_model
from turbobench.tidy import rows

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
N_CELLS = 3 * 2 * 2 * 2 + 5 + 1


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


def test_a_set_of_another_model_is_not_continued(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    run_sweep(sweep, tmp_path / "set", executor=replay)
    before = (tmp_path / "set" / store.RECORDS).read_text()
    other = replace(sweep, model=replace(sweep.model, sha256="ef" * 32, path=tmp_path / "other.gguf"))
    with pytest.raises(StoreError, match=r"a set is of one model") as caught:
        run_sweep(other, tmp_path / "set", executor=replay)
    assert "other.gguf" in caught.value.hint
    assert (tmp_path / "set" / store.RECORDS).read_text() == before


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
    assert len(end.failed) == 5
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
    assert len(list((cache / "base").glob("*.logits"))) == 1  # the comparisons to come need not make it again
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
    huge = SweepSpec.model_validate({"name": "huge", "pairs": ["q8_0"], "quality": {"n_ctx": 256, "chunks": 9_000_000}})
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


GPU = Gpu(name="NVIDIA H200", arch="90", memory_mib=143771, driver="580.65.06", uuid="GPU-private")


@pytest.fixture
def gpu_sweep(sweep: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """Return the sweep as one of a GPU build and a model of random weights, speed and codec only."""
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.first_on_path(monkeypatch, tmp_path / "gpu-tools")
    fake_tools.nvidia_smi(tmp_path / "gpu-tools", f"9.0, {GPU.uuid}, 143771 MiB, 580.65.06, NVIDIA H200")
    return replace(
        sweep,
        spec=SPEC.model_copy(update={"quality": None}),
        build=replace(sweep.build, backend="cuda"),
        model=replace(sweep.model, random_weights=True),
        gpus=(GPU,),
    )


def test_a_gpu_sweep_puts_all_layers_there_and_a_log_of_the_cpu_is_a_fallback(
    gpu_sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    run_sweep(gpu_sweep, tmp_path / "out", executor=replay)
    assert all("-ngl 99" in text for text in replay.commands)
    speed = [record for record in cells(tmp_path / "out") if record["cell"]["kind"] == "speed"]
    assert {(record["placement"], record["placement_reason"]) for record in speed} == {("fallback", "K/V in CPU")}
    assert {record["cell"]["device"] for record in speed} == {"NVIDIA H200"}


def test_the_codec_is_not_measured_on_a_build_that_does_not_use_the_cpus(
    gpu_sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    run_sweep(gpu_sweep, tmp_path / "out", executor=replay)
    (codec,) = [record for record in cells(tmp_path / "out") if record["cell"]["kind"] == "nmse"]
    assert codec["outcome"] == "skipped"


def test_the_report_names_the_gpu_and_says_that_the_weights_are_random(
    gpu_sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    run_sweep(gpu_sweep, tmp_path / "out", executor=replay)
    assert GPU.uuid not in (tmp_path / "out" / store.RECORDS).read_text()
    text = report.markdown(report.load(tmp_path / "out"))
    assert "NVIDIA H200 (90), 143771 MiB, driver 580.65.06" in text
    speed_tables = [part for part in text.split("\n## ") if part.startswith(("pp64", "tg4"))]
    assert speed_tables
    assert all("random weights, throughput only" in part for part in (*speed_tables, text.split("\n## ")[-1]))


def test_the_memory_that_a_process_took_on_the_gpu_is_recorded_and_tidied(
    gpu_sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    fake_tools.nvidia_smi(
        tmp_path / "gpu-tools", f"9.0, {GPU.uuid}, 143771 MiB, 580.65.06, NVIDIA H200", used_mib=(600, 5600)
    )

    class Lasting(Replay):
        def __call__(self, command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
            time.sleep(0.5)
            return super().__call__(command, on_line=on_line)

    lasting = Lasting(n_vocab=gpu_sweep.model.n_vocab)
    run_sweep(gpu_sweep, tmp_path / "out", only="speed f16/f16 d0 r0", executor=lasting)
    assert {record["device_mib_peak"] for record in cells(tmp_path / "out")} == {5000.0}
    assert {row["device_mib_peak"] for row in rows(report.load(tmp_path / "out").result_set)} == {5000.0}


def test_quality_of_random_weights_is_refused(tmp_path: Path) -> None:
    write_model("smoke", SMOKE_SHAPE, tmp_path / "random.gguf")
    with pytest.raises(ModelError, match=r"random\.gguf has random weights.*would mean nothing"):
        inputs(Request(spec=SPEC, model=str(tmp_path / "random.gguf")))


def test_without_a_device_nothing_is_fetched_or_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tools.no_gpu_settings(monkeypatch)
    fake_tools.first_on_path(monkeypatch, tmp_path / "bin")
    fake_tools.script(tmp_path / "bin", "nvidia-smi", "exit 9")
    with pytest.raises(ToolchainError, match="nothing can be measured on backend cuda"):
        prepare(Request(spec=SPEC, backend="cuda"))


QUALITY = SweepSpec.model_validate(
    {
        "name": "quality",
        "pairs": ["f16", "q4_0", "q4_0:unrotated", "turbo4"],
        "quality": {
            "n_ctx": [256, 512],
            "chunks": 2,
            "decode": {"chunks": 1, "pairs": ["turbo4"]},
            "as_given": {"chunks": 1, "pairs": ["turbo4"]},
        },
    }
)


@pytest.fixture
def quality(sweep: Prepared) -> Prepared:
    return replace(sweep, spec=QUALITY)


def test_an_unrotated_pair_runs_without_rotation_and_all_others_with_it(
    quality: Prepared, replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "1")  # the user's own must not decide
    run_sweep(quality, tmp_path, executor=replay)
    disabled = {env["LLAMA_ATTN_ROT_DISABLE"] for env in replay.environments}
    assert disabled == {"0", "1"}
    found = [row for row in rows(report.load(tmp_path).result_set) if row["test"] == "kld" and row["type_k"] == "q4_0"]
    assert [(row["unrotated"], row["attn_rot_k"], row["attn_rot_v"]) for row in found] == [
        (None, True, True),
        (True, False, False),
    ] * 2
    assert {row["placement"] for row in found} == {"verified"}


def test_rotation_that_did_not_go_off_is_no_proof_of_an_unrotated_pair(
    quality: Prepared, replay: Replay, tmp_path: Path
) -> None:
    class Deaf(Replay):
        def __call__(self, command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
            return super().__call__(replace(command, env=None), on_line=on_line)

    run_sweep(quality, tmp_path, executor=Deaf(n_vocab=replay.n_vocab))
    unproven = {record["cell"].get("unrotated") for record in cells(tmp_path) if record["placement"] == "unverified"}
    assert unproven == {True}


def test_the_decode_path_shares_the_base_of_prefill_and_reads_fewer_chunks(
    quality: Prepared, replay: Replay, tmp_path: Path
) -> None:
    end = run_sweep(quality, tmp_path, executor=replay)
    assert end.failed == ()
    perplexities = [text for text in replay.commands if "llama-perplexity" in text]
    bases = [text for text in perplexities if "--kl-divergence " not in text]
    assert len(bases) == 3  # two lengths, and one of the model as given
    decode = [text for text in perplexities if "-ub 1 " in text]
    assert len(decode) == 2
    assert all("--chunks 1 " in text for text in decode)
    base_of = {text.split("--kl-divergence-base ")[1].split()[0] for text in decode}
    prefill = [text for text in perplexities if "-ub 256" in text and "-ctk q4_0" in text]
    assert base_of == {text.split("--kl-divergence-base ")[1].split()[0] for text in prefill}


def test_a_window_longer_than_the_model_was_trained_on_is_skipped_and_no_base_is_made(
    quality: Prepared, replay: Replay, tmp_path: Path
) -> None:
    short = replace(quality, model=replace(quality.model, n_ctx_train=256))
    end = run_sweep(short, tmp_path, executor=replay)
    assert (end.n_skipped, end.failed) == (6, ())
    assert not any("-c 512" in text for text in replay.commands)
    skipped = [record for record in cells(tmp_path) if record["outcome"] == "skipped"]
    assert {record["cell"]["n_ctx"] for record in skipped} == {512}
    assert all("256 tokens" in record["reason"] for record in skipped)


def test_a_run_that_compared_with_another_base_fails_and_says_so(
    quality: Prepared, replay: Replay, tmp_path: Path
) -> None:
    class Foreign(Replay):
        def _output(self, argv: list[str]) -> tuple[str, str]:
            stdout, stderr = super()._output(argv)
            return stdout.replace("Mean PPL(base)                :   1.080999", "Mean PPL(base) : 1.2"), stderr

    end = run_sweep(quality, tmp_path, executor=Foreign(n_vocab=replay.n_vocab))
    assert end.n_measured == 3
    assert all("another text or model" in reason for reason in end.failed)


def test_a_fault_is_in_the_report_and_ends_the_command(quality: Prepared, replay: Replay, tmp_path: Path) -> None:
    class Faulty(Replay):
        def write_tokens(self, path: Path, at: dict[str, str]) -> None:
            super().write_tokens(path, {**at, "-ctk": "x", "-ctv": "x"})  # whatever the type, the same

    run_sweep(quality, tmp_path, executor=Faulty(n_vocab=replay.n_vocab))
    made = report.load(tmp_path)
    with pytest.raises(QualityGateError, match="gave the same KLD for every token"):
        made.check()
    assert "**Not to be believed**: f32 and q4_0 gave the same KLD" in report.markdown(made)


def test_a_centred_pair_gets_its_file_and_the_cell_its_hash(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    spec = SweepSpec.model_validate({"name": "c", "pairs": ["turbo4+c/turbo3"], "quality": {"n_ctx": 256, "chunks": 1}})
    center = KVCenter(path=tmp_path / "means.gguf", sha256="e" * 64)
    run_sweep(replace(sweep, spec=spec, kv_center=center), tmp_path, executor=replay)
    with_center = [text for text in replay.commands if "--kv-center" in text]
    assert len(with_center) == 1
    assert f"-ctk turbo4 -ctv turbo3 --kv-center {center.path}" in with_center[0]
    found = [row for row in rows(report.load(tmp_path).result_set) if row["type_k"] == "turbo4"]
    assert {(row["center"], row["kv_center_sha256"]) for row in found} == {(True, "e" * 64)}
    assert {row["placement"] for row in found} == {"verified"}


def test_a_mean_that_was_not_subtracted_is_a_fallback(sweep: Prepared, replay: Replay, tmp_path: Path) -> None:
    spec = SweepSpec.model_validate({"name": "c", "pairs": ["turbo4+c/turbo3"], "quality": {"n_ctx": 256, "chunks": 1}})
    center = KVCenter(path=tmp_path / "means.gguf", sha256="e" * 64)
    deaf = replace(replay, centers=False)
    run_sweep(replace(sweep, spec=spec, kv_center=center), tmp_path, executor=deaf)
    (cell,) = [record for record in cells(tmp_path) if record["cell"]["type_k"] == "turbo4"]
    assert (cell["placement"], cell["placement_reason"]) == ("fallback", "K was not centred")


def test_a_centred_pair_without_a_file_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate({"name": "c", "pairs": ["turbo4+c"], "speed": {}})
    write_gguf(tmp_path / "m.gguf")
    for given, missing in ((None, "m.kv-center.gguf"), (str(tmp_path / "mine.gguf"), "mine.gguf")):
        with pytest.raises(ConfigError, match=rf"turbo4\+c needs a file of K's means, .*{missing}") as caught:
            prepare(Request(spec=spec, model=str(tmp_path / "m.gguf"), kv_center=given))
        assert "turbobench calibrate" in caught.value.hint


def test_means_of_the_text_that_quality_is_measured_on_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("word " * 60_000)
    spec = SweepSpec.model_validate({"name": "c", "pairs": ["turbo4+c"], "quality": {"corpus": str(text)}})
    request = Request(spec=spec, model=str(write_gguf(tmp_path / "m.gguf")))
    write_center_file(tmp_path / "m.kv-center.gguf", arch="llama", text_sha256=sha256_of(text))
    with pytest.raises(ConfigError, match="the text that quality is measured on") as caught:
        prepare(request)
    assert "calibrate --force" in caught.value.hint


def test_means_of_another_architecture_or_none_at_all_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    spec = SweepSpec.model_validate({"name": "c", "pairs": ["turbo4+c"], "speed": {}})
    request = Request(spec=spec, model=str(write_gguf(tmp_path / "m.gguf")))
    write_center_file(tmp_path / "m.kv-center.gguf", arch="gemma3", text_sha256="ab")
    with pytest.raises(ConfigError, match=r"K's means of a gemma3 model, and m\.gguf is a llama model"):
        prepare(request)
    for content in (b"junk", (tmp_path / "m.gguf").read_bytes()):
        (tmp_path / "m.kv-center.gguf").write_bytes(content)
        with pytest.raises(ConfigError, match="is no file of K's means"):
            prepare(request)


@pytest.mark.parametrize("backend", ["cuda", "vulkan"])
@pytest.mark.parametrize("section", ["speed", "quality", "niah"])
def test_a_type_that_the_backend_lacks_is_refused_before_anything_is_done(backend: str, section: str) -> None:
    spec = SweepSpec.model_validate({"name": "t", "pairs": ["f16", "turbo4+c/turbo3t"], section: {}})
    for stage in (prepare, preview):
        with pytest.raises(ConfigError, match=rf"turbo4\+c/turbo3t cannot .* on {backend}: .* turbo3t") as caught:
            stage(Request(spec=spec, model="no-such-model", backend=backend))
        assert caught.value.hint.endswith("has turbo3t: cpu")


def test_a_policy_with_a_type_that_the_backend_lacks_is_refused(sweep: Prepared, tmp_path: Path) -> None:
    types = layer_types_for(sweep.model, "mine", "turbo4", "turbo4")
    layer_types.write(LayerTypes.build("mine", types, {2: ("turbo3t", "turbo4")}), tmp_path / "mine.kv-types")
    spec = SweepSpec.model_validate({"name": "t", "pairs": [f"policy:{tmp_path / 'mine.kv-types'}"], "speed": {}})
    check_types(spec, "cpu")
    with pytest.raises(ConfigError, match="policy:mine cannot be measured on hip"):
        check_types(spec, "hip")


def test_the_error_of_a_codec_is_measured_in_every_build() -> None:
    check_types(SweepSpec.model_validate({"name": "t", "codec": {"types": ["turbo3t"]}}), "cuda")


def test_a_policy_reaches_every_program_and_is_proven_layer_by_layer(
    sweep: Prepared, replay: Replay, tmp_path: Path, cache: Path
) -> None:
    types = layer_types_for(sweep.model, "mine", "turbo3", "turbo3")
    layer_types.write(LayerTypes.build("mine", types, {2: ("f16", "turbo4")}), tmp_path / "mine.kv-types")
    spec = SweepSpec.model_validate(
        {
            "name": "p",
            "pairs": ["f16", "turbo3", f"policy:{tmp_path / 'mine.kv-types'}"],
            "speed": {"pp": 64, "tg": 4, "rounds": 1},
            "quality": {"n_ctx": 512, "chunks": 2, "floor": False},
            "niah": {"n_ctx": 256, "keys": [1], "seeds": 1},
        }
    )
    assert run_sweep(replace(sweep, spec=spec), tmp_path / "out", executor=replay).failed == ()
    used = [text for text in replay.commands if "--kv-types" in text or "mine" in text]
    assert len(used) == 3
    assert not any(str(tmp_path / "mine.kv-types") in text or "-ctk" in text for text in used)
    found = [row for row in rows(report.load(tmp_path / "out").result_set) if row["policy"] == "mine"]
    assert {row["kind"] for row in found} == {"speed", "quality", "niah", "bucket"}
    assert {row["placement"] for row in found} == {"verified"}
    assert {(row["type_k"], row["type_v"]) for row in found} == {("1*f16+3*turbo3", "3*turbo3+1*turbo4")}
    assert {row["bpv"] for row in found} == {(6 * 3.25 + 4.25 + 16) / 8}
    assert "policy:mine" in report.markdown(report.load(tmp_path / "out"))
    assert str(tmp_path) not in (tmp_path / "out" / store.RECORDS).read_text()


def test_needles_are_asked_of_f16_first_and_every_pair_is_compared_with_it(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    spec = SweepSpec.model_validate(
        {
            "name": "n",
            "pairs": ["turbo4"],
            "niah": {"n_ctx": 256, "positions": [0.1, 0.5, 0.9], "seeds": 4, "keys": [1, 4]},
        }
    )
    end = run_sweep(replace(sweep, spec=spec), tmp_path, executor=replay)
    assert (end.n_measured, end.failed) == (4, ())
    found = rows(report.load(tmp_path).result_set)
    assert [(row["type_k"], row["keys"]) for row in found] == [("f16", 1), ("turbo4", 1), ("f16", 4), ("turbo4", 4)]
    turbo = found[1]
    assert (turbo["needles"], turbo["needles_found_pct"], turbo["needles_f16_pct"]) == (12, 75.0, 100.0)
    assert (turbo["needles_lost"], turbo["needles_won"], turbo["verdict"]) == (3, 0, "no difference shown")
    assert turbo["needles_p"] == pytest.approx(0.25)
    assert found[0].get("verdict") is None
    assert {row["placement"] for row in found} == {"verified"}
    text = report.markdown(report.load(tmp_path))
    assert "## Needle in a haystack: one of 4 keys in 256 tokens" in text


def test_a_server_that_answers_only_some_prompts_is_no_measurement(
    sweep: Prepared, replay: Replay, tmp_path: Path
) -> None:
    class Dying(Replay):
        def _output(self, argv: list[str]) -> tuple[str, str]:
            stdout, stderr = super()._output(argv)
            return stdout.replace("needle p0.5-s1-k1 1\n", ""), stderr

    spec = SweepSpec.model_validate({"name": "n", "pairs": ["f16"], "niah": {"n_ctx": 256, "keys": [1]}})
    end = run_sweep(replace(sweep, spec=spec), tmp_path, executor=Dying(n_vocab=replay.n_vocab))
    assert end.failed == ("niah f16/f16 c256 k1: 1 of 20 prompts were not answered",)
