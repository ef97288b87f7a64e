"""From pydantic to a structural schema: what is rewritten, and what is refused with its path."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from kubequant.api.schema import NotStructuralError, cel, structural_schema, validations
from kubequant.api.spec import IntOrQuantity, Part

Short = Annotated[str, Field(max_length=8)]
ATOMIC = {"x-kubernetes-list-type": "atomic"}


class Inner(Part):
    some_name: Short


def field_schema(annotation: Any, default: Any = ...) -> dict[str, Any]:
    model: type[BaseModel] = type("M", (Part,), {"__annotations__": {"field": annotation}, "field": default})
    schema: dict[str, Any] = structural_schema(model)["properties"]["field"]
    return schema


REWRITTEN: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "a reference is inlined": (
        Inner,
        ...,
        {"type": "object", "required": ["someName"], "properties": {"someName": {"type": "string", "maxLength": 8}}},
    ),
    "null goes, and its default": (Short | None, None, {"type": "string", "maxLength": 8}),
    "an optional part is inlined": (
        Inner | None,
        None,
        {"type": "object", "required": ["someName"], "properties": {"someName": {"type": "string", "maxLength": 8}}},
    ),
    "int or string": (
        IntOrQuantity | None,
        None,
        {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "a bounded int is int32": (Annotated[int, Field(ge=0, le=9)], ..., {"format": "int32", "minimum": 0, "maximum": 9}),
    "an int without bound is int64": (Annotated[int, Field(ge=0)], ..., {"format": "int64"}),
    "a default stays": (Annotated[int, Field(le=9)], 1, {"default": 1}),
    "an enum of one": (Literal["a", "b"], ..., {"type": "string", "enum": ["a", "b"]}),
    "a list": (Annotated[list[Short], Field(max_length=3, json_schema_extra=ATOMIC)], ..., {"maxItems": 3, **ATOMIC}),
    "a map": (
        Annotated[dict[str, Short], Field(max_length=3)],
        ...,
        {"maxProperties": 3, "additionalProperties": {"type": "string", "maxLength": 8}},
    ),
    "a rule": (
        Annotated[str, Field(max_length=8, json_schema_extra=validations(cel("self != 'x'", "not x")))],
        ...,
        {"x-kubernetes-validations": [{"rule": "self != 'x'", "message": "not x"}]},
    ),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten(name: str) -> None:
    annotation, default, expected = REWRITTEN[name]
    schema = field_schema(annotation, default)
    assert {key: value for key, value in schema.items() if key in expected} == expected
    assert not {"title", "$ref", "$defs"} & schema.keys()
    if default is None:
        assert "default" not in schema


class Itself(Part):
    again: Itself | None = None


REFUSED: dict[str, tuple[Any, str]] = {
    "a float": (float, "float"),
    "a constant": (Literal["a"], "const"),
    "a union": (Short | Annotated[int, Field(le=1)], "union of several types"),
    "a tuple": (tuple[Short, Short], "prefixItems"),
    "a set": (
        Annotated[set[Short], Field(max_length=2, json_schema_extra=ATOMIC)],
        "uniqueItems",
    ),
    "an exclusive bound": (Annotated[int, Field(gt=0)], "exclusiveMinimum"),
    "a string without end": (str, "maxLength"),
    "a list without end": (list[Short], "maxItems"),
    "a list without a type": (Annotated[list[Short], Field(max_length=2)], "x-kubernetes-list-type"),
    "a map without end": (dict[str, Short], "maxProperties"),
    "a map of strings without end": (Annotated[dict[str, str], Field(max_length=1)], "maxLength"),
    "a map of anything": (Annotated[dict[str, Any], Field(max_length=1)], "type for its values"),
    "what holds itself": (Itself, "holds itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_its_path(name: str) -> None:
    annotation, cause = REFUSED[name]
    with pytest.raises(NotStructuralError, match=cause) as caught:
        field_schema(annotation)
    assert str(caught.value).startswith("M.field")


def test_unknown_fields_are_for_the_server_to_prune() -> None:
    class Strict(Part):
        model_config = {"extra": "forbid"}
        a: Short

    assert "additionalProperties" not in structural_schema(Strict)
