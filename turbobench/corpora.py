"""Which text quality is measured on: one of `configs/corpora.yaml`, fetched and checked by hash, or any UTF-8 file."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import mwparserfromhell
from filelock import FileLock
from pydantic import Field

from turbobench import console, wheels
from turbobench.download import fetch_url
from turbobench.errors import CorpusError, FetchError
from turbobench.hashing import cached_sha256, sha256_of
from turbobench.paths import atomic_path, cache_dir, configs_dir
from turbobench.strict_yaml import Strict, load_yaml, suggestion
from turbobench.wheels import Sha256, WheelMember
from turbobench.wikitext import corpus_text

_MIN_CHUNKS = 2  # llama-perplexity refuses a text shorter than two contexts


class WikipediaDump(WheelMember):
    """Articles of a MediaWiki dump inside a package; `text_sha256` is that of the prose made from them."""

    kind: Literal["wikipedia-dump"]
    text_sha256: Sha256


class ZipByUrl(Strict):
    """A text inside a zip file at a URL; `text_sha256` is that of the text."""

    kind: Literal["zip"]
    url: str
    sha256: Sha256
    member: str
    text_sha256: Sha256


class CorpusList(Strict):
    """configs/corpora.yaml: names to texts, and the name taken when none is given."""

    default: str
    corpora: dict[str, Annotated[WikipediaDump | ZipByUrl, Field(discriminator="kind")]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A text on this disk."""

    name: str
    path: Path
    sha256: str


def resolve_corpus(ref: str | Path | None) -> Corpus:
    """Return the text for a name of configs/corpora.yaml, a path, or None for the default; fetched if need be.

    Raises CorpusError for a text that is missing, empty, not UTF-8 or not the pinned one, FetchError if it cannot be
    had.
    """
    known = load_yaml(configs_dir() / "corpora.yaml", CorpusList)
    name = known.default if ref is None else str(ref)
    if name in known.corpora:
        return _pinned(name, known.corpora[name])
    path = Path(name).expanduser()
    if not path.exists():
        raise CorpusError(
            f"there is no text {name}" + suggestion(name, known.corpora),
            f"give the path of a text file, or one of: {', '.join(known.corpora)}",
        )
    _check_is_text(path)
    return Corpus(name=path.name, path=path, sha256=cached_sha256(path))


def check_long_enough(corpus: Corpus, *, n_ctx: int, chunks: int) -> None:
    """Raise CorpusError if the text cannot have n_ctx × chunks tokens: no token of it is shorter than one byte.

    A text that passes may still be too short; llama-perplexity's own count decides that.
    """
    needed = n_ctx * max(chunks, _MIN_CHUNKS)
    size = corpus.path.stat().st_size
    if size < needed:
        raise CorpusError(
            f"the text {corpus.name} is too short: {chunks} chunks of {n_ctx} are {needed} tokens, it has {size} bytes",
            "give a longer text, or lower quality.chunks or quality.n_ctx in the sweep",
        )


def second_half(corpus: Corpus) -> Corpus:
    """Return the text from the first line beyond its middle: what those who read from the start do not see."""
    target = cache_dir() / "corpora" / f"{corpus.sha256[:16]}-second-half.txt"
    if not target.is_file():
        whole = corpus.path.read_bytes()
        start = whole.find(b"\n", len(whole) // 2) + 1
        with atomic_path(target) as part:
            part.write_bytes(whole[start:] if start else whole[len(whole) :])
    _check_is_text(target)
    return Corpus(name=f"{corpus.name}, second half", path=target, sha256=cached_sha256(target))


def _check_is_text(path: Path) -> None:
    hint = "give a UTF-8 text file"
    try:
        with path.open(encoding="utf-8") as handle:
            has_words = any(line.strip() for line in handle)
    except IsADirectoryError as failure:
        raise CorpusError(f"{path} is a folder", hint) from failure
    except UnicodeDecodeError as failure:
        raise CorpusError(f"{path} is not UTF-8 text ({failure.reason} at byte {failure.start})", hint) from failure
    except OSError as failure:
        raise CorpusError(f"{path} cannot be read: {failure.strerror}", "check its permissions") from failure
    if not has_words:
        raise CorpusError(f"{path} is empty", "give a text of at least two contexts")


def _pinned(name: str, source: WikipediaDump | ZipByUrl) -> Corpus:
    target = cache_dir() / "corpora" / f"{name}.txt"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not (target.is_file() and cached_sha256(target) == source.text_sha256):
            console.step(f"fetching the text {name}")
            try:
                _makers[type(source)](source, target)
            except FetchError as failure:
                raise FetchError(failure.what, f"{failure.hint}; or give a text of your own by its path") from failure
            console.done(f"text {name}")
    return Corpus(name=name, path=target, sha256=source.text_sha256)


def _from_dump(source: WikipediaDump, target: Path) -> None:
    dump = target.with_name(Path(source.member).name)
    if not dump.is_file() or sha256_of(dump) != source.sha256:
        wheels.fetch(source, dump)
    with console.err.status("taking the prose out of Wikipedia's markup (about 10 s)"):
        text = corpus_text(dump.read_bytes())
    _write_checked(text.encode(), source.text_sha256, target)
    dump.unlink()


def _from_zip(source: ZipByUrl, target: Path) -> None:
    archive = fetch_url(source.url, source.sha256, target.with_suffix(".zip"))
    with zipfile.ZipFile(archive) as packed:
        text = packed.read(source.member)
    _write_checked(text, source.text_sha256, target)
    archive.unlink()


_makers: dict[type, Callable[..., None]] = {WikipediaDump: _from_dump, ZipByUrl: _from_zip}


def _write_checked(text: bytes, expected: str, target: Path) -> None:
    with atomic_path(target) as part:
        part.write_bytes(text)
        found = sha256_of(part)
        if found != expected:
            raise CorpusError(
                f"the text made for {target.stem} has sha256 {found}, not the pinned {expected}",
                f"mwparserfromhell {mwparserfromhell.__version__} may parse differently; install version 0.7.2",
            )
