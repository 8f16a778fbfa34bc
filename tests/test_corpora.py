"""Which text a name or path means, and which texts are refused."""

import hashlib
from pathlib import Path

import pytest

from turbobench.corpora import Corpus, CorpusList, check_long_enough, resolve_corpus, second_half
from turbobench.errors import CorpusError
from turbobench.paths import configs_dir
from turbobench.strict_yaml import load_yaml


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOBENCH_CACHE", str(tmp_path / "cache"))


def _text(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    return path


def test_any_text_file_is_a_corpus(tmp_path: Path) -> None:
    path = _text(tmp_path, "Größe matters.\n".encode())
    assert resolve_corpus(path) == Corpus(
        name="my.txt", path=path, sha256=hashlib.sha256("Größe matters.\n".encode()).hexdigest()
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b" \n\n\t\n", "is empty"), (b"abc\xff\xfe", "is not UTF-8 text")],
)
def test_a_text_without_words_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(CorpusError, match=reason) as caught:
        resolve_corpus(_text(tmp_path, content))
    assert caught.value.hint


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is a folder"):
        resolve_corpus(tmp_path)


def test_a_missing_text_gets_a_suggestion() -> None:
    with pytest.raises(CorpusError, match="did you mean 'wikitext-2-raw'"):
        resolve_corpus("wikitext-2")


@pytest.mark.parametrize(("size", "chunks", "fits"), [(4096, 2, True), (4095, 2, False), (2048, 1, False)])
def test_a_text_that_cannot_have_enough_tokens_is_refused(tmp_path: Path, size: int, chunks: int, fits: bool) -> None:
    corpus = resolve_corpus(_text(tmp_path, b"a" * size))
    if fits:
        check_long_enough(corpus, n_ctx=2048, chunks=chunks)
        return
    with pytest.raises(CorpusError, match="too short") as caught:
        check_long_enough(corpus, n_ctx=2048, chunks=chunks)
    assert "quality.chunks" in caught.value.hint


def test_the_default_text_is_in_the_list() -> None:
    known = load_yaml(configs_dir() / "corpora.yaml", CorpusList)
    assert known.default in known.corpora
    assert {"wikipedia-gensim", "wikitext-2-raw"} <= set(known.corpora)


def test_the_second_half_of_a_text_begins_at_a_line(tmp_path: Path) -> None:
    whole = resolve_corpus(_text(tmp_path, "one Größe\ntwo\nthree\nfour\nfive\n".encode()))
    half = second_half(whole)
    assert half.path.read_text(encoding="utf-8") == "four\nfive\n"
    assert half.sha256 == hashlib.sha256(b"four\nfive\n").hexdigest()
    assert (half.name, second_half(whole)) == ("my.txt, second half", half)


def test_a_text_whose_second_half_has_no_line_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is empty"):
        second_half(resolve_corpus(_text(tmp_path, b"a single line\n")))
