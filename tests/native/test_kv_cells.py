"""The cells of a K/V cache: what the patched llama.cpp takes a short cut by."""

from __future__ import annotations

import subprocess
from pathlib import Path

from turbobench import stack
from turbobench.source import fetch, load_pin


def test_a_sequence_is_alone_where_no_cell_has_another(tmp_path: Path) -> None:
    tree = stack.apply(fetch(load_pin()))
    program = tmp_path / "check"
    include = [
        argument for folder in ("src", "include", "ggml/include") for argument in ("-I", str(tree.path / folder))
    ]
    source = str(Path(__file__).parent / "kv_cells_check.cpp")
    subprocess.run(["c++", "-O2", "-std=c++17", *include, source, "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
