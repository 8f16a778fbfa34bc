"""The byte-Pareto figure: KLD against bits per value, with the front. Needs matplotlib, the extra `figures`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from turbobench.kvtypes import KVPair
from turbobench.pareto import Placed
from turbobench.paths import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

_SIZE_IN = (9.0, 6.0)
_DPI = 120
_FONT = 8.5
_TICKS = (3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 12, 16)
# What a point is, its colour and its marker; colours of Okabe and Ito, told apart also without colour by the marker.
_KINDS = (
    ("turbo, K centred", "#d55e00", "D"),
    ("turbo", "#e69f00", "o"),
    ("stock, K centred", "#0072b2", "v"),
    ("stock, rotated", "#56b4e9", "s"),
    ("stock, unrotated", "#999999", "x"),
    ("types by layer", "#009e73", "^"),
)
_POLICY = 5
# Where a label may stand, in points from its marker, the likeliest first.
_PLACES = tuple(
    (dx, dy)
    for distance in (7, 14, 22, 32, 44)
    for dx, dy in ((1, 1.1), (1, -1.1), (-1, 1.1), (-1, -1.1), (0, 1.5), (0, -1.5))
    for dx, dy in ((dx * distance, dy * distance),)
)


def available() -> bool:
    """Return whether figures can be made here."""
    return importlib.util.find_spec("matplotlib") is not None


def write_pareto(placed: Sequence[Placed], target: Path, *, title: str) -> None:
    """Draw the points of one setting into a PNG file, whole or not at all."""
    figure = draw_pareto(placed, title=title)
    with atomic_path(target) as temporary:
        # Nothing of the day or the version, so that the same figures give the same file.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_pareto(placed: Sequence[Placed], *, title: str) -> Figure:
    """Return the figure of one setting; it needs a point with a KLD above 0, since both axes are logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    shown = [place for place in placed if place.point.kld > 0]
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _scatter(axes, shown)
    _front(axes, [place for place in shown if place.on_front])
    _dress(axes, shown, title)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    _labels(axes, shown, canvas)
    return figure


def _kind(name: str) -> int:
    if name.startswith("policy"):
        return _POLICY
    pair = KVPair.parse(name)
    if pair.unrotated:
        return 4
    return (0 if pair.uses_turbo else 2) + (0 if pair.center else 1)


def _scatter(axes: Axes, placed: Sequence[Placed]) -> None:
    for index, (label, colour, marker) in enumerate(_KINDS):
        chosen = [place.point for place in placed if _kind(place.point.name) == index]
        if chosen:
            axes.errorbar(
                [point.bpv for point in chosen],
                [point.kld for point in chosen],
                yerr=[min(point.kld_err, 0.9 * point.kld) for point in chosen],
                fmt=marker,
                color=colour,
                markersize=6,
                elinewidth=1,
                label=label,
                zorder=3,
            )


def _front(axes: Axes, front: Sequence[Placed]) -> None:
    """Draw the front as steps: with so many bits, this is the best there is."""
    ordered = sorted((place.point for place in front), key=lambda point: point.bpv)
    axes.plot(
        [point.bpv for point in ordered],
        [point.kld for point in ordered],
        drawstyle="steps-post",
        color="#009e73",
        linewidth=1.6,
        label="front",
        zorder=2,
    )


def _dress(axes: Axes, placed: Sequence[Placed], title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    lo, hi = (pick(place.point.bpv for place in placed) for pick in (min, max))
    axes.set_xlim(lo / 1.06, hi * 1.12)
    axes.set_xticks([tick for tick in _TICKS if lo / 1.06 <= tick <= hi * 1.12])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(y=0.12)
    axes.set_xlabel("bits per cached value, scales included (log scale)")
    axes.set_ylabel("mean KLD against f16 K/V, nats (log scale; ± standard error)")
    axes.set_title(title, fontsize=11)
    axes.grid(which="major", color="#dddddd", linewidth=0.7)
    axes.grid(which="minor", axis="y", color="#f0f0f0", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=_FONT)


def _labels(axes: Axes, placed: Sequence[Placed], canvas: FigureCanvasAgg) -> None:
    """Name the points, those of the front in bold, so that no name covers a marker or another name."""
    from matplotlib.transforms import Bbox  # noqa: PLC0415 - an extra

    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    centres = [axes.transData.transform((place.point.bpv, place.point.kld)) for place in placed]
    taken = [Bbox.from_bounds(x - 7, y - 7, 14, 14) for x, y in centres]
    legend = axes.get_legend()
    if legend is not None:
        taken.append(legend.get_window_extent(renderer))
    for place in placed:
        taken.append(_label(axes, place, taken, renderer))


def _label(axes: Axes, place: Placed, taken: Sequence[Bbox], renderer: RendererAgg) -> Bbox:
    """Put a name at the first place that is free and in the frame, else at the last one; returns what it covers."""
    from matplotlib.text import Text  # noqa: PLC0415 - an extra

    frame = axes.get_window_extent(renderer)
    for dx, dy in _PLACES:
        label = axes.annotate(
            place.point.name,
            (place.point.bpv, place.point.kld),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="left" if dx > 0 else "right" if dx < 0 else "center",
            va="center",
            fontsize=_FONT,
            fontweight="bold" if place.on_front else "normal",
            arrowprops={"arrowstyle": "-", "color": "#888888", "linewidth": 0.5} if abs(dx) + abs(dy) > 20 else None,
        )
        label.set_in_layout(False)
        label.update_positions(renderer)
        box = Text.get_window_extent(label, renderer)  # without its line
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if (inside and not any(box.overlaps(other) for other in taken)) or (dx, dy) == _PLACES[-1]:
            break
        label.remove()
    return box
