"""YAML files to frozen records, strictly: an unknown or repeated key is an error with its place and a suggestion."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from turbobench.errors import ConfigError


class Strict(BaseModel):
    """Base of every record that comes from YAML: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


Record = TypeVar("Record", bound=Strict)


def load_yaml(path: Path, schema: type[Record]) -> Record:
    """Read a YAML mapping into a frozen record; raises ConfigError with file, key path and a suggestion."""
    data = _parse(path)
    try:
        return schema.model_validate(data)
    except ValidationError as failure:
        problems = [_describe(error, schema) for error in failure.errors()]
        raise ConfigError(
            f"{path}: {'; '.join(text for text, _ in problems)}", "; ".join(dict.fromkeys(hint for _, hint in problems))
        ) from failure


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a sweep would silently lose its first half."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(path: Path) -> dict[str, object]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{path} cannot be read: {failure}", "give a UTF-8 YAML file") from failure
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{where} is not valid YAML: {failure.problem}", "mend that line") from failure
    except yaml.YAMLError as failure:
        raise ConfigError(f"{path} is not valid YAML: {failure}".split("\n")[0], "give a YAML text file") from failure
    if data is None:
        raise ConfigError(f"{path} is empty", "see configs/demo.yaml for a complete example")
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"{path} is not a mapping of keys to values", "see configs/demo.yaml for a complete example")
    return data


def _describe(error: Mapping[str, Any], schema: type[Strict]) -> tuple[str, str]:
    """Reword one pydantic error as (what, hint), each one line."""
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location) or "the file"
    if error["type"] == "extra_forbidden":
        known = _fields_at(schema, location[:-1])
        return f"unknown key '{dotted}'{suggestion(location[-1], known)}", f"known keys there: {', '.join(known)}"
    if error["type"] == "missing":
        return f"'{dotted}' is missing", f"add {location[-1]}: …"
    reason = str(error["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    given = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    where = f"'{dotted}' " if reason.startswith("should") else f"'{dotted}': " if location else ""
    return f"{where}{reason}{given}", "correct the value there"


def _fields_at(schema: type[BaseModel], location: list[str]) -> list[str]:
    """Return the keys that the record at this place of the file takes."""
    for part in location:
        nested = _record_in(schema.model_fields[part].annotation) if part in schema.model_fields else None
        schema = nested or schema
    return list(schema.model_fields)


def _record_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (Union, types.UnionType, dict, list, tuple, Annotated):
        return next((found for part in typing.get_args(annotation) if (found := _record_in(part))), None)
    return None
