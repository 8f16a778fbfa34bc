"""The byte-Pareto figure: a readable PNG, the same each time, and nothing lost without matplotlib."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from matplotlib.text import Text

from tests.test_tidy import header, kld_end
from turbobench import figures, report, store
from turbobench.pareto import Placed, Point, place

pytestmark = pytest.mark.usefixtures("cache")

# KLD of types that lie close together: the figures of results/cpu-smollm2, with unrotated and centred ones beside.
KLD = {
    "q8_0": (8.5, 0.00015),
    "q8_0:unrotated": (8.5, 0.00017),
    "q5_1": (6.0, 0.0079),
    "q5_0": (5.5, 0.0101),
    "q4_1": (5.0, 0.0337),
    "q4_0": (4.5, 0.0398),
    "q4_0:unrotated": (4.5, 0.115),
    "iq4_nl": (4.5, 0.0336),
    "turbo4": (4.25, 0.0297),
    "turbo4+c": (4.25, 0.0190),
    "turbo4/turbo3": (3.75, 0.0465),
    "turbo4+c/turbo3": (3.75, 0.0370),
    "turbo3": (3.25, 0.1396),
    "turbo3+c": (3.25, 0.0900),
    "q8_0/turbo4": (6.375, 0.0046),
    "q8_0/turbo3": (5.875, 0.0206),
}


@pytest.fixture
def placed() -> list[Placed]:
    return place([Point(name=name, bpv=bpv, kld=kld, kld_err=kld / 30) for name, (bpv, kld) in KLD.items()])


def test_the_figure_is_a_png_of_its_size_and_the_same_each_time(placed: list[Placed], tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    for path in (first, second):
        figures.write_pareto(placed, path, title="t")
    content = first.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1080, 720)
    assert content == second.read_bytes()


def test_every_pair_is_named_in_the_frame_and_no_name_covers_another_or_a_marker(placed: list[Placed]) -> None:
    figure = figures.draw_pareto(placed, title="t")
    (axes,) = figure.axes
    boxes = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}
    assert set(boxes) == set(KLD)
    names = list(boxes)
    assert [(a, b) for i, a in enumerate(names) for b in names[:i] if boxes[a].overlaps(boxes[b])] == []
    frame = axes.get_window_extent()
    markers = [axes.transData.transform(point) for point in KLD.values()]
    for box in boxes.values():
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
        assert not any(box.contains(*marker) for marker in markers)


def test_the_report_shows_the_figures_it_wrote_and_none_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [kld_end(name, kld=kld) for name, (_, kld) in KLD.items()]
    with store.open_store(tmp_path) as opened:
        opened.append(header(*ends))
        for end in ends:
            opened.append(end.record("s1"))
    made = report.load(tmp_path)
    text = report.write(made, tmp_path).read_text(encoding="utf-8")
    assert "(figures/pareto-512.png)" in text
    assert (tmp_path / "figures" / "pareto-512.png").is_file()
    monkeypatch.setattr(figures, "available", lambda: False)
    text = report.write(made, tmp_path / "without").read_text(encoding="utf-8")
    assert "figures/" not in text
    assert "## Quality by byte at 512 tokens" in text
    assert not (tmp_path / "without" / "figures").exists()
    assert "turbobench[figures]" in capsys.readouterr().err
