"""`python -m turbobench.codec emit|check|golden|nmse|train`: keeps the generated files of the codec in step."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from turbobench.codec import emit, golden, trellis
from turbobench.codec.block import nmse
from turbobench.codec.tables import CODEBOOKS_PATH, CODEC_NAMES, codec
from turbobench.paths import atomic_path, kernels_dir


def _write(path: Path, data: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    sys.stdout.write(f"wrote {path}\n")


def _check() -> int:
    differ = False
    for name, text in emit.files().items():
        path = kernels_dir() / name
        found = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
        diff = list(difflib.unified_diff(found, text.splitlines(keepends=True), str(path), "regenerated"))
        sys.stdout.writelines(diff or [f"{path.name} is what the codebooks give\n"])
        differ |= bool(diff)
    return int(differ)


def _nmse(blocks: int) -> None:
    x = golden.random_blocks(2 * blocks)[:blocks]
    for name in CODEC_NAMES:
        sys.stdout.write(f"{name}   {nmse(codec(name), x):.6f}\n")
    sys.stdout.write(f"turbo3t  {trellis.nmse(trellis.trellis(), x):.6f}\n")


def main() -> int:
    """Run one of the verbs; the exit code is 1 where `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m turbobench.codec", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("emit", help="write the tables of C and of GLSL")
    verbs.add_parser("check", help="exit 1 where these tables are not what the codebooks give")
    verbs.add_parser("golden", help="write the golden vectors")
    verbs.add_parser("nmse", help="NMSE on Gaussian blocks").add_argument("--blocks", type=int, default=16384)
    verbs.add_parser("train", help="train the codebooks, the search and the trellis anew (minutes)")
    options = parser.parse_args()
    if options.verb == "emit":
        for name, text in emit.files().items():
            _write(kernels_dir() / name, text.encode())
    elif options.verb == "check":
        return _check()
    elif options.verb == "golden":
        _write(golden.PATH, golden.golden_file())
        _write(golden.TRELLIS_VECTORS_PATH, golden.golden_trellis_file())
    elif options.verb == "nmse":
        _nmse(options.blocks)
    else:
        from turbobench.codec import train, trellis_train  # noqa: PLC0415 - only for the rare verb that takes minutes

        _write(CODEBOOKS_PATH, train.codebooks_json().encode())
        _write(trellis.TRELLIS_PATH, trellis_train.trellis_json().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
