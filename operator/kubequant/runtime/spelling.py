"""How the configuration is spelt: fields as the file has them, words with their meaning, and variables that hold no JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import AfterValidator, BaseModel
from pydantic.alias_generators import to_camel

_SHOWN_CHARACTERS = 60


def matching(pattern: str, what: str) -> AfterValidator:
    """Text that matches a regular expression as a whole; `what` says to people what that is."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {what}")
        return text

    return AfterValidator(check)


def name_in_file(model: type[BaseModel], path: str) -> str:
    """`hub.cache_bytes` as people write it: hub.cacheBytes. Keys of their own stay as they are."""
    names = dict(_names(model))
    return ".".join(names.get(part, part) for part in path.split("."))


def _names(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        yield name, field.alias or to_camel(name)
        kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _names(kind)


def without_json(model: type[BaseModel], prefix: str, delimiter: str) -> str:
    """What is wrong with the variables that must hold JSON and do not; "" where none is found."""
    return "; ".join(_without_json(model, prefix, delimiter))


def _without_json(model: type[BaseModel], prefix: str, delimiter: str) -> Iterator[str]:
    for variable, value in sorted(os.environ.items()):
        if not variable.upper().startswith(prefix):
            continue
        kind = _kind(model, variable[len(prefix) :].lower().split(delimiter))
        example = '["a", "b"]' if kind is list else '{"name": "value"}'
        if kind is not None and not _is_json(value):
            yield f"the variable {variable} {value[:_SHOWN_CHARACTERS]!r}: must be JSON, as in {example}"


def _kind(model: type[BaseModel], path: list[str]) -> type | None:
    """Which JSON a field takes, list or dict; None for plain values and for what is no field."""
    field, kind = model.model_fields.get(path[0]), None
    if field is not None:
        kind = field.annotation
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _kind(kind, path[1:]) if path[1:] else dict
    origin: Any = get_origin(kind)
    return origin if origin in (list, dict) and not path[1:] else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
