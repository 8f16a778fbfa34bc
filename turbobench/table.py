"""A finished table, the columns that make one, and how a figure is rounded: where a column is formatted, once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from turbobench.kvtypes import KVPair
from turbobench.tidy import Row

Align = Literal["left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A finished table: text cells, one alignment a column, and what a reader must know to trust it.

    `dispensable` are headers of columns that a narrow terminal does without.
    """

    title: str
    headers: tuple[str, ...]
    aligns: tuple[Align, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    dispensable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Column:
    """A header and what stands under it for a row."""

    header: str
    render: Callable[[Row], str]
    align: Align = "right"
    dispensable: bool = False


def table(title: str, columns: Sequence[Column], rows: Sequence[Row], notes: Sequence[str] = ()) -> Table:
    """Return the table of `rows`, a line each."""
    return Table(
        title=title,
        headers=tuple(column.header for column in columns),
        aligns=tuple(column.align for column in columns),
        rows=tuple(tuple(column.render(row) for column in columns) for row in rows),
        notes=tuple(notes),
        dispensable=tuple(column.header for column in columns if column.dispensable),
    )


def pair_name(row: Row) -> str:
    """Name a pair the short way: `turbo4` for turbo4/turbo4."""
    return KVPair.of(row).short


def number(value: float | None, digits: int) -> str:
    """Render a figure with fixed digits; nothing measured is an en dash."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.000"


def plain(field: str, digits: int) -> Callable[[Row], str]:
    """Return what renders one field."""
    return lambda row: number(row.get(field), digits)


def with_error(field: str, error: str, digits: int) -> Callable[[Row], str]:
    """Return what renders a field with its standard error after ±."""

    def render(row: Row) -> str:
        text = number(row.get(field), digits)
        margin = row.get(error)
        return text if margin is None or text == "–" else f"{text} ± {number(margin, digits)}"

    return render
