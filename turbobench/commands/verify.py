"""`turbobench verify`: whether a backend does what the design says of it, on the device that is here."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Annotated

import typer

from turbobench import console
from turbobench.build import DEFAULT_TARGETS, MORE_TARGETS, build
from turbobench.commands.fetch import SourceOption
from turbobench.conformance import report
from turbobench.conformance.faults import plant_all
from turbobench.conformance.verify import Verified, require_device, verify
from turbobench.paths import project_dir
from turbobench.smoke import smoke
from turbobench.source import fetch, load_pin
from turbobench.stack import apply


def command(
    *,
    backend: Annotated[str, typer.Option(help="Backend to build and verify.")] = "cpu",
    only: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Run only cases so named, as 'FLASH_ATTN_EXT turbo4*'.")
    ] = None,
    plant_faults: Annotated[
        bool, typer.Option("--plant-faults", help="Then check that faults planted in a copy of the kernels are seen.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, metavar="DIR", help="Folder of the report.")
    ] = None,
    source: SourceOption = None,
) -> None:
    """Verify a backend: golden vectors, every op, every K/V pair and head size, on the device that is here."""
    require_device(backend)
    tree = apply(fetch(load_pin(), source=source))
    targets = (*DEFAULT_TARGETS, *MORE_TARGETS["tests"])
    made = build(tree, backend, smoke=functools.partial(smoke, backend=backend), targets=targets)
    folder = out or _result_folder()
    verified = verify(made, folder, only=only)
    if plant_faults:
        verified = plant_all(made, tree, folder)
    _show(verified, folder)
    verified.check()


def _result_folder() -> Path:
    """Return `results/conformance` of the checkout if it can be written, else of the current folder."""
    checkout = project_dir()
    ours = (checkout / "pyproject.toml").is_file() and os.access(checkout, os.W_OK)
    return (checkout if ours else Path.cwd()) / "results" / "conformance"


def _show(verified: Verified, folder: Path) -> None:

    path = report.write(verified, folder)
    console.done(f"{verified.header['backend']}: {report.summary(verified)}")
    console.out.print(str(path))
