"""Tables, Markdown, CSV and the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.sweeps import cell_end, speed_cell
from tests.test_tidy import S, header, kld_end, nmse_end
from turbobench import report, store
from turbobench.errors import StoreError
from turbobench.outcome import Failed
from turbobench.store import CellEnd
from turbobench.table import number

pytestmark = pytest.mark.usefixtures("cache")


def ends() -> list[CellEnd]:
    speed = [
        cell_end(speed_cell(pair, depth=depth), round_=number_, samples_ns=(ns,))
        for depth in (0, 4096)
        for pair, ns in (("f16", S), ("turbo4", S // 2), ("q8_0/turbo4", S // 4))
        for number_ in (0, 1, 2)
    ]
    crash = Failed(reason="llama-bench: killed by SIGSEGV", ending="killed by SIGSEGV", log="l", hint="")
    broken = cell_end(speed_cell("turbo3"), outcome=crash)
    return [*speed, broken, kld_end("f16", "floor"), kld_end("turbo4"), nmse_end("turbo4", 0.0065)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with store.open_store(tmp_path / "set") as opened:
        opened.append(header(*ends()))
        for end in ends():
            opened.append(end.record("s1"))
    return tmp_path / "set"


def test_the_depth_table_has_depths_as_rows_and_pairs_as_columns(folder: Path) -> None:
    (depth, *_) = report.load(folder).tables
    assert depth.headers == ("depth", "f16", "turbo4", "q8_0/turbo4", "turbo3")
    assert depth.rows == (
        ("0", "16.0", "32.0 (2.00×)", "64.0 (4.00×)", "failed"),
        ("4096", "16.0", "32.0 (2.00×)", "64.0 (4.00×)", "–"),
    )


def test_the_quality_table_shows_the_floor_the_tails_and_the_cost(folder: Path) -> None:
    table = next(table for table in report.load(folder).tables if table.title.startswith("Quality"))
    assert [row[0] for row in table.rows] == ["f16 (floor)", "turbo4"]
    shown = dict(zip(table.headers, table.rows[1], strict=True))
    assert (shown["bits"], shown["KV MiB"]) == ("4.25", "11.2")
    assert (shown["KLD mean"], shown["99.9 %"]) == ("0.00050 ± 0.00006", "0.0126")
    assert any("Floor" in note for note in table.notes)


def test_a_failed_cell_is_listed_with_its_reason(folder: Path) -> None:
    problems = report.load(folder).tables[-1]
    assert problems.rows == (("turbo3", "tg16", "0", "failed", "llama-bench: killed by SIGSEGV"),)


def test_markdown_is_pipe_tables_of_one_width_without_html(folder: Path) -> None:
    text = report.markdown(report.load(folder))
    assert "<" not in text
    block = [line for line in text.split("## ")[1].splitlines() if line.startswith("|")]
    assert len({len(line) for line in block}) == 1
    assert block[1].startswith("| ----: |")
    assert "\n\n\n" not in text


def test_markdown_says_where_its_figures_come_from(folder: Path) -> None:
    text = report.markdown(report.load(folder))
    for fact in ("c" * 40, "t" * 40, "b1", "-DGGML_NATIVE=ON", "gcc 14", "a CPU", "ab" * 32, "cd" * 32, "without AMX"):
        assert fact in text


def test_a_set_that_is_not_finished_says_how_much_of_it_is_there(folder: Path) -> None:
    def told() -> dict[str, str]:
        return dict(report.load(folder).provenance)

    assert "cells" not in told()
    *kept, _last = (folder / store.RECORDS).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / store.RECORDS).write_text("".join(kept), encoding="utf-8")
    assert told()["cells"].startswith("**9 of the 10 that were planned**")


def test_notes_beside_the_records_are_named(folder: Path) -> None:
    assert "NOTES.md" not in report.markdown(report.load(folder))
    (folder / "NOTES.md").write_text("a busy machine")
    assert "[NOTES.md](NOTES.md)" in report.markdown(report.load(folder))


def test_intervals_say_of_which_depths_they_are(tmp_path: Path) -> None:
    ends = [
        cell_end(speed_cell(pair, depth=depth), round_=number_, samples_ns=(ns,))
        for depth, n_rounds in ((0, 3), (4096, 2))
        for pair, ns in (("f16", S), ("turbo4", S // 2))
        for number_ in range(n_rounds)
    ]
    with store.open_store(tmp_path / "set") as opened:
        opened.append(header(*ends))
        for end in ends:
            opened.append(end.record("s1"))
    (depth, *_) = report.load(tmp_path / "set").tables
    assert "at depth 0 alone: the others have fewer than 3 rounds." in depth.notes[1]


def test_figures_on_whose_rounds_nobody_agrees_are_marked(tmp_path: Path) -> None:
    ends = [
        cell_end(speed_cell(pair, depth=depth), round_=number_, samples_ns=(ns,))
        for depth, f16 in ((0, (S, S, S)), (4096, (S, 3 * S, 2 * S)))
        for number_ in range(3)
        for pair, ns in (("f16", f16[number_]), ("turbo4", S // 2))
    ]
    with store.open_store(tmp_path / "set") as opened:
        opened.append(header(*ends))
        for end in ends:
            opened.append(end.record("s1"))
    (depth, *_) = report.load(tmp_path / "set").tables
    steady, unsteady = depth.rows
    assert "?" not in "".join(steady)
    assert unsteady[1].endswith("?")
    assert unsteady[2].endswith("×?)")
    assert any(note.startswith("?: ") for note in depth.notes)


def test_the_set_gets_its_report_and_its_csv(folder: Path) -> None:
    made = report.load(folder)
    assert report.write(made, folder).read_text(encoding="utf-8") == report.markdown(made)
    lines = (folder / "tidy.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("set,cell_id,build_id,")
    assert len(lines) == 1 + 6 + 1 + 2 * (1 + 2) + 1


def test_a_narrow_terminal_gets_the_quality_table_without_its_errors(folder: Path) -> None:
    def shown(width: int) -> str:
        out = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
        report.show(report.load(folder), out)
        file = out.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()

    assert "1.082 ± 0.017" in shown(160)
    assert "1.082 ± 0.017" not in shown(80)
    assert "…" not in shown(80)


def test_a_folder_without_records_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        report.load(tmp_path)
    assert "turbobench run" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "text"), [(0.00005, "0.0001"), (-0.00000001, "0.0000"), (None, "–"), (float("nan"), "–")]
)
def test_figures_are_rounded_once_and_without_a_negative_zero(value: float | None, text: str) -> None:
    assert number(value, 4) == text
