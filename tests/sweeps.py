"""Cells, outcomes and prepared sweeps for tests, and an executor that replays captured output."""

from __future__ import annotations

import json
import signal
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from turbobench import niah, proc
from turbobench.build import Build
from turbobench.config import SweepSpec
from turbobench.corpora import Corpus
from turbobench.kvtypes import FLOATS, KVPair
from turbobench.layer_types import LayerTypes, as_logged
from turbobench.machine import Machine
from turbobench.matrix import Cell
from turbobench.model import read_facts
from turbobench.outcome import Measured, Outcome, Speed
from turbobench.placement import Observed, Verdict
from turbobench.programs import perplexity
from turbobench.store import CellEnd
from turbobench.sweep import Prepared

from .gguf_files import write_gguf

DATA = Path(__file__).parent / "data"
PRINTED_KLD = 0.000503  # by the captured comparison
_F16 = {"-ctk": "f16", "-ctv": "f16"}  # what the programs take where nothing is said
VERIFIED = Verdict(placement="verified")


def observed(pair: KVPair) -> Observed:
    return Observed(
        type_k=pair.type_k,
        type_v=pair.type_v,
        layer_types=as_logged(pair.policy.by_layer) if pair.policy else "",
        kv_mib=11.25,
        kv_cells=512,
        attn_rot_k=not pair.types_used(0) <= FLOATS and not pair.unrotated,
        attn_rot_v=not pair.types_used(1) <= FLOATS and not pair.unrotated,
        flash_attn=True,
        kv_buffers=("CPU",),
        n_splits=1,
    )


def speed_cell(pair: str, *, depth: int = 0, test: str = "tg16") -> Cell:
    return Cell(
        kind="speed",
        pair=KVPair.parse(pair),
        test=test,
        build_id="b1",
        device="a CPU, 2 cores",
        model_sha256="ab" * 32,
        n_depth=depth,
        path="decode" if test.startswith("tg") else "prefill",
        params={"threads": 2, "repetitions": 2, "partner": ""},
    )


def cell_end(
    cell: Cell,
    *,
    round_: int = 0,
    outcome: Outcome | None = None,
    samples_ns: tuple[int, ...] = (500_000_000, 250_000_000),
) -> CellEnd:
    if outcome is None:
        speed = Speed(n_tokens=16, n_threads=2, samples_ns=samples_ns)
        outcome = Measured(measurement=speed, observed=observed(cell.pair), verdict=VERIFIED)
    return CellEnd(
        cell=cell, round=round_, outcome=outcome, job="j", job_wall_s=1.5, ended_at="2026-11-01T10:00:00+00:00"
    )


def prepared(folder: Path, spec: SweepSpec) -> Prepared:
    """Return a sweep on a tiny GGUF file and a build folder whose programs exist, for an injected executor."""
    bin_dir = folder / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    for name in ("llama-bench", "llama-perplexity", "llama-quantize", "llama-server"):
        (bin_dir / name).touch()
    text = folder / "text.txt"
    text.write_text("words " * 1000)
    model = folder / "model.gguf"
    write_gguf(model)
    facts = read_facts(model)
    build = Build(
        id="b1",
        backend="cpu",
        tree_id="t" * 40,
        base_commit="c" * 40,
        bin_dir=bin_dir,
        cmake_flags=("-DGGML_NATIVE=ON",),
        compiler="gcc 14",
        cpu="a CPU",
        notes=(),
        built_at="2026-11-01T10:00:00+00:00",
    )
    return Prepared(
        spec=spec,
        build=build,
        model=facts,
        quality_models={"f16": model, "as-is": model},
        corpus=Corpus(name="text", path=text, sha256="cd" * 32),
        machine=Machine(cpu="a CPU", cores=2, ram_gib=4.0, system="Linux"),
    )


def write_base(path: Path, *, n_vocab: int, n_ctx: int, chunks: int, first_token: int = 7) -> None:
    """Write a sparse file of base logits; `first_token` stands for the text."""
    tokens = np.full(n_ctx * chunks, first_token, dtype="<i4")
    with path.open("wb") as handle:
        handle.write(struct.pack("<8siii", b"_logits_", n_ctx, n_vocab, chunks) + tokens.tobytes())
        handle.truncate(perplexity.base_bytes(n_vocab=n_vocab, n_ctx=n_ctx, chunks=chunks))


@dataclass
class Replay:
    """An executor that answers each command with captured output of the real program; `crash` makes it die instead.

    `environments` are the variables that each command was given; without `centers` it ignores --kv-center.
    """

    n_vocab: int = 0
    crash: Callable[[str], bool] = lambda _: False
    centers: bool = True
    commands: list[str] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)

    def __call__(self, command: proc.Command, *, on_line: Callable[[str], None] | None = None) -> proc.Completed:
        argv = [str(part) for part in command.argv]
        text = " ".join(argv)
        self.commands.append(text)
        self.environments.append(command.env or {})
        if self.crash(text):
            return self._completed(argv, "", -signal.SIGSEGV, ("llama-bench: fatal error",))
        stdout, stderr = self._output(argv)
        if self.environments[-1].get("LLAMA_ATTN_ROT_DISABLE") == "1":
            stderr = stderr.replace("attn_rot_k = 1", "attn_rot_k = 0").replace("attn_rot_v = 1", "attn_rot_v = 0")
        if "--kv-center" in argv and self.centers:
            stderr += (
                "llama_kv_center_init: K of 30 layers is centred by means.gguf, measured at positions up to 8192\n"
            )
        for line in (stderr + stdout).splitlines():
            if on_line is not None:
                on_line(line)
        return self._completed(argv, stdout, 0, ())

    def _output(self, argv: list[str]) -> tuple[str, str]:
        if "-m" in argv and "turbobench.native" in argv:
            return '{"nmse": 0.0065, "n_values": 4096}\n', ""
        if "turbobench.niah_client" in argv:
            return self._needles(json.loads(argv[-1]))
        at = _F16 | {name: argv[index + 1] for index, name in enumerate(argv[:-1])}
        if "llama-bench" in argv[0]:
            return self._bench(at)
        if "--kl-divergence" in argv:
            self.write_tokens(Path(at["--kl-divergence-tokens"]), at)
            return self._adapted("perplexity-kld", "q8_0", "q4_0", at)
        write_base(
            Path(at["--kl-divergence-base"]), n_vocab=self.n_vocab, n_ctx=int(at["-c"]), chunks=int(at["--chunks"])
        )
        return self._adapted("perplexity-base", "f16", "f16", at)

    def write_tokens(self, path: Path, at: dict[str, str]) -> None:
        """Write what has the mean that the captured run prints, and differs between types and paths."""
        scored = int(at["--chunks"]) * (int(at["-c"]) - 1 - int(at["-c"]) // 2)
        seed = zlib.crc32(" ".join(at.get(name, "") for name in ("-ctk", "-ctv", "-ub", "--kv-types")).encode())
        noise = np.random.default_rng(seed).standard_normal(scored)
        (PRINTED_KLD + 1e-5 * (noise - noise.mean())).astype("<f4").tofile(path)

    def _needles(self, job: dict[str, Any]) -> tuple[str, str]:
        """Answer as a server whose quantized caches lose the needles of seed 0."""
        command = job["server"]
        at = _F16 | {name: command[index + 1] for index, name in enumerate(command[:-1])}
        _, stderr = self._adapted("perplexity-kld", "q8_0", "q4_0", at)
        asked = niah.trials(job["positions"], seeds=job["seeds"], keys=job["keys"])
        right = {trial.id: trial.seed > 0 or at["-ctk"] == "f16" for trial in asked}
        return "".join(f"needle {name} {int(found)}\n" for name, found in right.items()), stderr

    def _bench(self, at: dict[str, str]) -> tuple[str, str]:
        stdout, stderr = self._adapted("llama-bench-q8_0-q4_0", "q8_0", "q4_0", at)
        stdout = stdout.replace('"n_prompt": 64', f'"n_prompt": {at["-p"]}').replace(
            '"n_gen": 4', f'"n_gen": {at["-n"]}'
        )
        return stdout.replace('"n_depth": 128', f'"n_depth": {at["-d"]}'), stderr

    @staticmethod
    def _adapted(name: str, type_k: str, type_v: str, at: dict[str, str]) -> tuple[str, str]:
        """Return a capture with the cache types of this command in place of those it was captured with."""
        stdout, stderr = ((DATA / f"{name}.{s}").read_text(encoding="utf-8") for s in ("stdout", "stderr"))
        stdout = stdout.replace(f'"type_k": "{type_k}"', f'"type_k": "{at["-ctk"]}"')
        stdout = stdout.replace(f'"type_v": "{type_v}"', f'"type_v": "{at["-ctv"]}"')
        cached, by_layer = (at["-ctk"], at["-ctv"]), None
        if "--kv-types" in at:
            by_layer = LayerTypes.parse("policy", Path(at["--kv-types"]).read_text(encoding="utf-8"))
            cached = (by_layer.summary(0), by_layer.summary(1))
            stderr = stderr.replace(
                "llama_kv_cache: attn_rot_k",
                f"llama_kv_cache: types by layer: {as_logged(by_layer.by_layer)}\nllama_kv_cache: attn_rot_k",
            )
        stderr = stderr.replace(f"K ({type_k})", f"K ({cached[0]})").replace(f"V ({type_v})", f"V ({cached[1]})")
        if at.get("-fa") == "off":
            stderr = stderr.replace("flash_attn            = enabled", "flash_attn            = disabled")
        for number, side in enumerate(("k", "v")):
            used = {at[f"-ct{side}"]} if by_layer is None else set(by_layer.types(number))
            value = 0 if used <= FLOATS else 1
            stderr = stderr.replace(f"attn_rot_{side} = {1 - value}", f"attn_rot_{side} = {value}")
        return stdout, stderr

    @staticmethod
    def _completed(argv: list[str], stdout: str, code: int, tail: tuple[str, ...]) -> proc.Completed:
        return proc.Completed(
            argv=tuple(argv), returncode=code, stdout=stdout, tail=tail, log=None, wall_s=0.1, timed_out=False
        )
