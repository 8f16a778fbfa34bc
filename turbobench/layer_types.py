"""Cache types by layer: the text file that `--kv-types` takes (KV-TYPES.md has its format). Pure but for `read`."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from turbobench.errors import ConfigError
from turbobench.paths import atomic_path, cache_dir, project_dir

FORMAT = "kv-types 1"
SUFFIX = ".kv-types"
_HEADER = ("architecture", "layers", "embedding")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_NEXT = "make one with 'turbobench policy', or mend that line"
_N_WORDS = 5  # of a line of layers, after its first word
_MOST_LAYERS = 10_000  # a slipped digit is not to fill the memory


@dataclass(frozen=True, slots=True, order=True)
class LayerRun:
    """Layers `first` to `last`, which have the same types; `n_k` and `n_v` are the values each stores for a token."""

    first: int
    last: int
    n_k: int
    type_k: str
    n_v: int
    type_v: str

    def __str__(self) -> str:
        layers = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"layer {layers} {self.n_k} {self.type_k} {self.n_v} {self.type_v}"

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, order=True)
class LayerTypes:
    """The types of K and V in every layer with a cache, and the model they are for; `n_layer` counts all layers."""

    name: str
    arch: str
    n_layer: int
    n_embd: int
    runs: tuple[LayerRun, ...]

    @classmethod
    def parse(cls, name: str, text: str) -> LayerTypes:
        """Read the text of a file; ConfigError names the line that is wrong."""
        lines = [(number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), 1)]
        filled = [(number, words) for number, words in lines if words]
        if not filled or " ".join(filled[0][1]) != FORMAT:
            raise ConfigError(f"{name} is no file of K/V types, which begins with '{FORMAT}'", _NEXT)
        header: dict[str, str] = {}
        runs: list[LayerRun] = []
        for number, words in filled[1:]:
            if words[0] == "layer":
                runs.append(_run(f"{name}, line {number}", words[1:]))
            elif words[0] in _HEADER and len(words) == 2 and words[0] not in header:
                header[words[0]] = words[1]
            else:
                raise ConfigError(f"{name}, line {number}: '{' '.join(words)}' is not understood", _NEXT)
        if missing := [key for key in _HEADER if key not in header]:
            raise ConfigError(f"{name} has no line '{missing[0]}'", _NEXT)
        if not all(header[key].isdecimal() for key in ("layers", "embedding")) or int(header["layers"]) > _MOST_LAYERS:
            raise ConfigError(f"{name}: 'layers' and 'embedding' are numbers, and layers at most {_MOST_LAYERS}", _NEXT)
        found = cls(name, header["architecture"], int(header["layers"]), int(header["embedding"]), merged(name, runs))
        if found.runs[-1].last >= found.n_layer:
            raise ConfigError(f"{name} has types for layer {found.runs[-1].last}, and {found.n_layer} layers", _NEXT)
        return found

    @classmethod
    def of(cls, name: str, line: str) -> LayerTypes:
        """Read what `line` gives; the form in which records and tables keep it."""
        return cls.parse(name, line.replace("; ", "\n"))

    @classmethod
    def build(cls, name: str, like: LayerTypes, types: Mapping[int, tuple[str, str]]) -> LayerTypes:
        """Return types for the same model and layers as `like`; `types` by layer, others stay as there."""
        by_layer = like.by_layer | dict(types)
        layers = [
            LayerRun(layer, layer, run.n_k, by_layer[layer][0], run.n_v, by_layer[layer][1])
            for run in like.runs
            for layer in range(run.first, run.last + 1)
        ]
        return cls(name, like.arch, like.n_layer, like.n_embd, merged(name, layers))

    @property
    def lines(self) -> tuple[str, ...]:
        """The file's lines, without comments."""
        header = zip(_HEADER, (self.arch, self.n_layer, self.n_embd), strict=True)
        return (FORMAT, *(f"{key} {value}" for key, value in header), *map(str, self.runs))

    @property
    def line(self) -> str:
        """The same on one line, for records and tables."""
        return "; ".join(self.lines)

    @property
    def by_layer(self) -> dict[int, tuple[str, str]]:
        return {layer: (run.type_k, run.type_v) for run in self.runs for layer in range(run.first, run.last + 1)}

    @property
    def n_values(self) -> int:
        """How many values all layers store for one token."""
        return sum(run.count * (run.n_k + run.n_v) for run in self.runs)

    def bits_per_token(self, bpv: Mapping[str, float]) -> float:
        """Return the bits that all layers store for one token, by the bits per value of each type."""
        return sum(run.count * (run.n_k * bpv[run.type_k] + run.n_v * bpv[run.type_v]) for run in self.runs)

    def types(self, side: int) -> tuple[str, ...]:
        """Return the type of K (side 0) or V (side 1) of every layer."""
        return tuple(pair[side] for pair in self.by_layer.values())

    def summary(self, side: int) -> str:
        """Return each type and how many layers have it, as llama.cpp's log says it: `12*turbo3+18*turbo4`."""
        return "+".join(f"{count}*{name}" for name, count in sorted(Counter(self.types(side)).items()))


def read(ref: str | Path) -> LayerTypes:
    """Read a file; a relative path is looked for here and then in the project. ConfigError if there is none."""
    path = Path(ref).expanduser()
    for candidate in (path, project_dir() / path):
        try:
            return LayerTypes.parse(candidate.name.removesuffix(SUFFIX), candidate.read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as failure:
            raise ConfigError(f"{candidate} cannot be read: {failure}", _NEXT) from failure
    raise ConfigError(f"there is no file of K/V types {ref}", "make one with 'turbobench policy'")


def write(types: LayerTypes, path: Path, comments: Iterable[str] = ()) -> None:
    """Write the file, with `comments` after its first line; it appears whole or not at all."""
    lines = [types.lines[0], *(f"# {comment}" for comment in comments), *types.lines[1:]]
    with atomic_path(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cached_file(types: LayerTypes) -> Path:
    """Return a file of these types in the cache, written if it is not there; its name is a hash of what it says."""
    path = cache_dir() / "kv-types" / f"{hashlib.sha256(types.line.encode()).hexdigest()[:16]}{SUFFIX}"
    if not path.is_file():
        write(types, path)
    return path


def as_logged(by_layer: Mapping[int, tuple[str, str]]) -> str:
    """Return types by layer as llama.cpp's log lists them: `0:turbo4/turbo3 1:…`."""
    return " ".join(f"{layer}:{pair[0]}/{pair[1]}" for layer, pair in sorted(by_layer.items()))


def _run(where: str, words: list[str]) -> LayerRun:
    layers = _RANGE.fullmatch(words[0]) if words else None
    if layers is None or len(words) != _N_WORDS or not (words[1].isdecimal() and words[3].isdecimal()):
        raise ConfigError(f"{where}: layers are written 'layer FIRST-LAST K-VALUES K-TYPE V-VALUES V-TYPE'", _NEXT)
    first, last = int(layers[1]), int(layers[2] or layers[1])
    if last < first:
        raise ConfigError(f"{where}: the last layer, {last}, is before the first", _NEXT)
    return LayerRun(first, last, int(words[1]), words[2], int(words[3]), words[4])


def merged(name: str, runs: Iterable[LayerRun]) -> tuple[LayerRun, ...]:
    """Return the runs in the order of layers, neighbours that are alike as one."""
    merged: list[LayerRun] = []
    for run in sorted(runs):
        if merged and run.first <= merged[-1].last:
            raise ConfigError(f"{name} has types for layer {run.first} twice", _NEXT)
        last = merged[-1] if merged else None
        if last is not None and run.first == last.last + 1 and _same(last, run):
            merged[-1] = LayerRun(last.first, run.last, run.n_k, run.type_k, run.n_v, run.type_v)
        else:
            merged.append(run)
    if not merged:
        raise ConfigError(f"{name} has types for no layer", _NEXT)
    return tuple(merged)


def _same(one: LayerRun, other: LayerRun) -> bool:
    return (one.n_k, one.type_k, one.n_v, one.type_v) == (other.n_k, other.type_k, other.n_v, other.type_v)
