"""The patched llama.cpp, really built, and the real model: in the user's cache, so that a second run is quick."""

from __future__ import annotations

from pathlib import Path

import pytest

from turbobench import stack
from turbobench.build import DEFAULT_TARGETS, MORE_TARGETS, Build, build
from turbobench.corpora import Corpus, resolve_corpus
from turbobench.model import read_facts
from turbobench.models import resolve_model
from turbobench.smoke import smoke
from turbobench.source import fetch, load_pin
from turbobench.weights import expand_to_f16

_TARGETS = (*DEFAULT_TARGETS, *MORE_TARGETS["server"], *MORE_TARGETS["calibrate"], *MORE_TARGETS["tests"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.build)


@pytest.fixture(scope="session")
def cpu_build() -> Build:
    """Fetch, patch, build and smoke-test; the smoke test decodes with every cache type."""
    return build(stack.apply(fetch(load_pin())), "cpu", smoke=smoke, targets=_TARGETS)


@pytest.fixture(scope="session")
def model() -> Path:
    return resolve_model(None)


@pytest.fixture(scope="session")
def model_f16(cpu_build: Build, model: Path) -> Path:
    return expand_to_f16(read_facts(model), cpu_build.program("llama-quantize"))


@pytest.fixture(scope="session")
def text() -> Corpus:
    return resolve_corpus(None)
