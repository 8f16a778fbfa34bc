"""llama-kv-center: the command line, its progress, and what its failures mean."""

from pathlib import Path

from turbobench.errors import CorpusError, MeasurementError
from turbobench.programs.kv_center import CenterRequest, argv, chunks_done, failure


def test_the_command_line() -> None:
    request = CenterRequest(n_ctx=8192, chunks=2, n_threads=2, n_gpu_layers=99)
    made = argv(Path("llama-kv-center"), Path("m.gguf"), Path("t.txt"), Path("s.gguf"), request)
    assert " ".join(made) == ("llama-kv-center -m m.gguf -f t.txt -o s.gguf -c 8192 --chunks 2 -t 2 -ngl 99 -fit off")


def test_progress_is_read() -> None:
    assert chunks_done("0.12.345.678 I measured 2 of 3 chunks") == 2
    assert chunks_done("0.12.345.678 I llama_context: n_ctx = 8192") is None


def test_a_short_text_is_told_with_its_length() -> None:
    short = failure("0.01.000.000 E main: the text has 100 tokens, 8192 are needed")
    assert isinstance(short, CorpusError)
    assert short.what == "the text is too short: it gives 100 tokens where 8192 are needed"


def test_any_other_failure_gives_the_last_error() -> None:
    other = failure("0.01.000.000 E main: one\n0.01.000.001 E main: this model stores no keys")
    assert isinstance(other, MeasurementError)
    assert other.what == "llama-kv-center failed: this model stores no keys"
    assert failure("").what == "llama-kv-center failed: it ended early"
