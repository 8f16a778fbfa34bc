"""`turbobench doctor`: what this machine can build and run, and what mends what is missing."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from turbobench import console
from turbobench.doctor import Status, examine
from turbobench.errors import ToolchainError

_STYLES = {Status.GOOD: "green", Status.ABSENT: "dim", Status.MISSING: "red"}


def command() -> None:
    """Say what this machine can build and run, and what mends what is missing. Uses no network."""
    findings = examine()
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        status = Text(finding.status.value, style=_STYLES[finding.status])
        found = Text(finding.value)
        if finding.mend:
            found.append(f"\n→ {finding.mend}", style="dim")
        table.add_row(status, finding.name, found)
    console.out.print(table)
    missing = [finding for finding in findings if finding.status is Status.MISSING]
    if missing:
        names = ", ".join(finding.name for finding in missing)
        raise ToolchainError(f"the demo cannot run here: {names} missing", missing[0].mend)
    console.done("the demo can run here: turbobench demo")
