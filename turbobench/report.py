"""A result set as a person reads it: in the terminal, as Markdown for Reddit and GitHub, and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbobench import console, figures, pareto
from turbobench.errors import QualityGateError, StoreError
from turbobench.model import RANDOM_WEIGHTS
from turbobench.pareto import Placed
from turbobench.paths import atomic_path
from turbobench.quality_gate import faults
from turbobench.quality_tables import pareto_settings, points
from turbobench.store import RECORDS, read
from turbobench.table import Table
from turbobench.tables import all_tables
from turbobench.tidy import ResultSet, Row, frame, last_sweep, rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_WORTH_DRAWING = 3
_WIDE = 200  # columns, for output that is no terminal
_NOTES = "NOTES.md"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A result set with its tables, the provenance as (name, value) pairs, and the faults that the rows show.

    `has_notes`: somebody wrote down, beside the records, what the set is and is not.
    """

    result_set: ResultSet
    tables: tuple[Table, ...]
    provenance: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    faults: tuple[str, ...]
    has_notes: bool = False

    def check(self) -> None:
        """Raise QualityGateError if the figures cannot be believed."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            raise QualityGateError(self.faults[0] + more, "the report's tables show each; do not use this build")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A byte-Pareto figure to be drawn: its file in `figures/`, its points, and the title of the table it goes with."""

    file: str
    title: str
    placed: tuple[Placed, ...]


def load(folder: Path) -> Report:
    """Read a result set and make its tables; raises StoreError when there is none."""
    if not (folder / RECORDS).is_file():
        raise StoreError(f"{folder} holds no {RECORDS}", "make a result set with 'turbobench run configs/demo.yaml'")
    result_set = last_sweep(read(folder / RECORDS))
    # A set is called as its folder is, which may have been another when it was measured.
    result_set = replace(result_set, header=dict(result_set.header) | {"set": folder.resolve().name})
    found = rows(result_set)
    return Report(
        result_set=result_set,
        tables=tuple(all_tables(found)),
        provenance=tuple(_provenance(result_set)),
        figures=tuple(_figures(found)),
        faults=tuple(faults(found)),
        has_notes=(folder / _NOTES).is_file(),
    )


def write(report: Report, folder: Path) -> Path:
    """Write `tidy.csv`, `report.md` and, with matplotlib, `figures/` into the set; returns the report's path.

    Each file is written whole or not at all.
    """
    if report.figures and not figures.available():
        console.warn("no figures without matplotlib; pip install 'turbobench[figures]' brings it")
    else:
        for figure in report.figures:
            figures.write_pareto(figure.placed, folder / "figures" / figure.file, title=figure.title)
    with atomic_path(folder / "tidy.csv") as temporary:
        temporary.write_text(csv(report), encoding="utf-8")
    path = folder / "report.md"
    with atomic_path(path) as temporary:
        temporary.write_text(markdown(report), encoding="utf-8")
    return path


def csv(report: Report) -> str:
    """Return every measurement unrounded, one a row."""
    return str(frame(report.result_set).to_csv(index=False, lineterminator="\n"))


def markdown(report: Report) -> str:
    """Return the report as Markdown that needs no HTML: pipe tables, lists, code spans."""
    import jinja2  # noqa: PLC0415 - only a written report needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - the output is Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["markdown"] = _pipe_table
    spec = report.result_set.provenance["spec"]
    text = environment.get_template("report.md.j2").render(
        title=f"{report.result_set.header['set']}: K/V cache types in llama.cpp",
        lead=spec["description"] or f"The sweep `{spec['name']}`.",
        tables=report.tables,
        figures=report.figures if figures.available() else (),
        faults=report.faults,
        provenance=report.provenance,
        notes=_NOTES if report.has_notes else "",
    )
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def show(report: Report, out: Console) -> None:
    """Print the tables, their notes and the provenance; what is too wide goes without its errors and some columns."""
    if not out.is_terminal:
        out.width = _WIDE
    for table in report.tables:
        rendered = _rich_table(table)
        if out.measure(rendered, options=out.options.update(max_width=_WIDE)).maximum > out.width:
            rendered = _rich_table(_narrow(table))
        out.print()
        out.print(table.title, style="bold", markup=False)
        out.print(rendered, soft_wrap=False)
        for note in table.notes:
            out.print(note, markup=False)
    out.print()
    for name, value in report.provenance:
        out.print(f"{name}: {value.replace('`', '').replace('**', '')}", markup=False)


def _figures(found: Sequence[Row]) -> list[Figure]:
    made: list[Figure] = []
    for setting, title, chosen in pareto_settings(found):
        placed = [place for place in pareto.place(points(chosen)) if place.point.kld > 0]
        if len(placed) >= _WORTH_DRAWING:
            made.append(Figure(file=f"pareto-{setting}.png", title=title, placed=tuple(placed)))
    return made


def _rich_table(table: Table) -> RichTable:
    from rich.table import Table as RichTable  # noqa: PLC0415 - named like ours

    shown = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for header, align in zip(table.headers, table.aligns, strict=True):
        shown.add_column(header, justify=align, no_wrap=header != "reason", header_style="dim")
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _narrow(table: Table) -> Table:
    kept = [index for index, header in enumerate(table.headers) if header not in table.dispensable]
    return replace(
        table,
        headers=tuple(table.headers[index] for index in kept),
        aligns=tuple(table.aligns[index] for index in kept),
        rows=tuple(tuple(row[index].partition(" ± ")[0] for index in kept) for row in table.rows),
    )


def _pipe_table(table: Table) -> str:
    """Render a pipe table whose source is aligned too, so that it reads well where Markdown is not rendered."""
    body = [table.headers, *table.rows]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in body]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(table.headers))]
    rule = [("-" * (w - 1) + ":") if a == "right" else "-" * w for w, a in zip(widths, table.aligns, strict=True)]
    lines = [_pipe_row(cells[0], widths, table.aligns), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_pipe_row(row, widths, table.aligns) for row in cells[1:])])


def _pipe_row(cells: Sequence[str], widths: Sequence[int], aligns: Sequence[str]) -> str:
    padded = [c.rjust(w) if a == "right" else c.ljust(w) for c, w, a in zip(cells, widths, aligns, strict=True)]
    return "| " + " | ".join(padded) + " |"


def _provenance(result_set: ResultSet) -> list[tuple[str, str]]:
    known: dict[str, Any] = result_set.provenance
    model, corpus, machine = known["model"], known["corpus"], known["machine"]
    ram = f", {machine['ram_gib']} GiB RAM" if machine["ram_gib"] else ""
    meaning = f", **{RANDOM_WEIGHTS}**" if model.get("random_weights") else ""
    verified = sum(end.get("placement") == "verified" for end in result_set.ends)
    lines = [
        ("llama.cpp", f"commit `{known['pin']}`"),
        ("patched tree", f"`{known['tree_id']}`"),
        ("build", f"`{known['build_id']}`, {known['backend']}, {known['compiler']}"),
        ("CMake flags", f"`{' '.join(known['cmake_flags'])}`"),
        *(("build note", note) for note in known["build_notes"]),
        *_machine(known, ram),
        ("model", f"{model['file']} ({model['file_type']}){meaning}, sha256 `{model['sha256']}`"),
    ]
    if corpus is not None:
        lines.append(("text", f"{corpus['name']}, sha256 `{corpus['sha256']}`"))
    if center := known.get("kv_center"):
        lines.append(("K's means", f"a file of 'turbobench calibrate', sha256 `{center}`"))
    planned, there = set(result_set.header["planned"]), {end["cell_id"] for end in result_set.ends}
    if len(there) < len(planned):
        lines.append(
            ("cells", f"**{len(there)} of the {len(planned)} that were planned**; the others have not run yet")
        )
    lines += [
        ("placement", f"{verified} of {len(result_set.ends)} measurements proven to have run as asked"),
        ("date", f"{result_set.header['date']}, turbobench {known['turbobench']}"),
    ]
    return lines


def _machine(known: dict[str, Any], ram: str) -> list[tuple[str, str]]:
    machine, gpus = known["machine"], known.get("gpus", [])
    if not gpus:
        return [("machine", f"{known['device']}{ram}, {machine['system']}")]
    return [
        *(("device", _gpu(gpu)) for gpu in gpus),
        ("host", f"{machine['cpu']}, {machine['cores']} cores{ram}, {machine['system']}"),
    ]


def _gpu(gpu: dict[str, Any]) -> str:
    memory = f", {gpu['memory_mib']} MiB" if gpu["memory_mib"] else ""
    return f"{gpu['name']} ({gpu['arch']}){memory}" + (f", driver {gpu['driver']}" if gpu["driver"] else "")
