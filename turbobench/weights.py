"""The model with its weights expanded to f16, made once by llama-quantize.

Quality is measured on it: with quantized weights the CPU rounds activations to 8 bits in every matrix product, and
that puts a floor of about .004 under every KLD.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from filelock import FileLock

from turbobench import console, proc
from turbobench.errors import DiskFullError
from turbobench.gguf_header import read_header
from turbobench.model import ModelFacts
from turbobench.paths import atomic_path, cache_dir

_BYTES_PER_WEIGHT = 2
_SPARE = 64 << 20  # header, vocabulary, and what else is being written meanwhile
_TENSOR = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]")


def expand_to_f16(model: ModelFacts, quantize: Path) -> Path:
    """Return a file of the model with f16 weights, made with the program `quantize` if it is not in the cache yet.

    A model of f32, f16 or bf16 weights is returned as it is. Raises DiskFullError with the figures before it starts,
    CommandError if llama-quantize fails.
    """
    if model.has_full_precision:
        return model.path
    target = cache_dir() / "models" / f"{model.sha256[:16]}-f16.gguf"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not target.is_file():
            _check_space(model, target.parent)
            console.step(f"expanding the weights of {model.path.name} to f16")
            with atomic_path(target) as part:
                _quantize(model.path, part, quantize)
                read_header(part)  # raises if the file is shorter than it promises
            console.done(f"f16 weights, {target.stat().st_size / 2**20:.0f} MiB")
    return target


def _check_space(model: ModelFacts, folder: Path) -> None:
    needed = model.n_params * _BYTES_PER_WEIGHT + _SPARE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"expanding {model.path.name} to f16 needs {needed / 2**20:.0f} MiB in {folder}, "
            f"where {free / 2**20:.0f} MiB are free",
            "free some space, set TURBOBENCH_CACHE to a folder on a larger disk, or set quality.weights to as-is",
        )


def _quantize(source: Path, part: Path, quantize: Path) -> None:
    command = proc.Command(
        argv=(quantize, "--allow-requantize", source, part, "f16"),
        log=cache_dir() / "logs" / f"quantize-{source.stem}.log",
        echo=True,
    )
    with console.progress() as display:
        task = display.add_task("tensors", total=None)

        def show(line: str) -> None:
            if found := _TENSOR.match(line):
                display.update(task, completed=int(found[1]), total=int(found[2]))

        proc.check(command, on_line=show, hint="see the log; set quality.weights to as-is to measure without it")
