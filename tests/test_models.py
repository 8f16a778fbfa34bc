"""Which file a model name or path means."""

from pathlib import Path

import pytest

from tests.gguf_files import write_gguf
from turbobench.errors import ModelError
from turbobench.models import ModelList, SplitModel, resolve_model
from turbobench.paths import configs_dir
from turbobench.strict_yaml import load_yaml


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "any.gguf")
    assert resolve_model(model) == model
    assert resolve_model(str(model)) == model


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ModelError, match="did you mean 'smollm2-135m'") as caught:
        resolve_model("smollm2-135")
    assert "smollm2-135m" in caught.value.hint


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model"):
        resolve_model(tmp_path / "missing.gguf")


def test_the_default_model_is_in_the_list() -> None:
    known = load_yaml(configs_dir() / "models.yaml", ModelList)
    assert known.models[known.default].sha256.startswith("b179c952")


def test_a_split_model_has_its_parts_in_order() -> None:
    known = load_yaml(configs_dir() / "models.yaml", ModelList).models["gemma3-270m"]
    assert isinstance(known, SplitModel)
    assert [Path(part.member).suffix for part in known.parts] == [".part00", ".part01", ".part02", ".part03"]
