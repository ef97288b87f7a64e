"""From a pydantic model to a structural OpenAPI schema that the API server takes.

pydantic emits much that a CustomResourceDefinition forbids: `$ref`, `anyOf` with null, `title`, `additionalProperties:
false` beside `properties`, integers without a format. This module rewrites it. What pydantic cannot say (CEL rules, list
types, int-or-string) travels in `json_schema_extra` and is kept as it stands.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_DROPPED = frozenset({"title", "default", "$defs"})
_FORBIDDEN = frozenset({"prefixItems", "oneOf", "allOf", "not", "if", "patternProperties", "const", "uniqueItems"}) | {
    "exclusiveMinimum",  # a number in JSON Schema, a boolean in OpenAPI 3.0: say `ge`
    "exclusiveMaximum",
}
INT32_LIMIT = 2**31 - 1
MAX_DEPTH = 16


class NotStructuralError(Exception):
    """The model holds something that a CustomResourceDefinition cannot say; the message names the path."""


def cel(rule: str, message: str, **extra: str) -> dict[str, str]:
    """One entry of `x-kubernetes-validations`; the message is for the person who wrote the manifest."""
    return {"rule": rule, "message": message, **extra}


def validations(*rules: dict[str, str]) -> Schema:
    """The `json_schema_extra` that carries CEL rules."""
    return {"x-kubernetes-validations": list(rules)}


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of `model`. Raises NotStructuralError with the path of what cannot be said."""
    generated = model.model_json_schema(by_alias=True)
    return _rewrite(generated, generated.get("$defs", {}), model.__name__)


def _rewrite(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    if path.count(".") > MAX_DEPTH:
        raise NotStructuralError(f"{path}: deeper than {MAX_DEPTH} levels, or it holds itself")
    node = _inlined(node, definitions)
    node = _without_null(node, definitions, path)
    if node.get("x-kubernetes-int-or-string"):
        return _int_or_string(node)
    bad = _FORBIDDEN & node.keys()
    if bad or node.get("type") == "number":
        raise NotStructuralError(f"{path}: {sorted(bad) or 'float'} cannot stand in a CustomResourceDefinition")
    schema = {key: value for key, value in node.items() if key not in _DROPPED}
    if node.get("default") is not None and not isinstance(node["default"], dict):
        schema["default"] = node["default"]
    if "properties" in node:
        schema["properties"] = {
            name: _rewrite(child, definitions, f"{path}.{name}") for name, child in node["properties"].items()
        }
        schema.pop("additionalProperties", None)
    elif isinstance(node.get("additionalProperties"), dict):
        schema["additionalProperties"] = _rewrite(node["additionalProperties"], definitions, f"{path}.*")
    elif node.get("additionalProperties"):
        raise NotStructuralError(f"{path}: a map needs a type for its values")
    if "items" in node:
        schema["items"] = _rewrite(node["items"], definitions, f"{path}[]")
    if node.get("type") == "integer":
        schema.setdefault("format", "int32" if node.get("maximum", INT32_LIMIT + 1) <= INT32_LIMIT else "int64")
    _check_bounds(schema, path)
    return schema


def _inlined(node: Schema, definitions: dict[str, Schema]) -> Schema:
    reference = node.get("$ref")
    if reference is None:
        return node
    target = definitions[reference.removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _without_null(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    """`X | None` says only that the field may be left out, which the absence from `required` says already."""
    if "anyOf" not in node or node.get("x-kubernetes-int-or-string"):
        return node
    kept = [option for option in node["anyOf"] if option != {"type": "null"}]
    if len(kept) != 1:
        raise NotStructuralError(f"{path}: a union of several types cannot stand in a CustomResourceDefinition")
    outer = {key: value for key, value in node.items() if key != "anyOf"}
    return {**_inlined(kept[0], definitions), **outer}


def _int_or_string(node: Schema) -> Schema:
    """The API server demands exactly this anyOf beside the marker, and no type."""
    kept = {key: value for key, value in node.items() if key.startswith("x-kubernetes") or key == "description"}
    return {**kept, "anyOf": [{"type": "integer"}, {"type": "string"}]}


def _check_bounds(schema: Schema, path: str) -> None:
    """Unbounded lists, maps and strings make CEL rules unaffordable and let status grow without limit."""
    kind = schema.get("type")
    if kind == "array" and not ("maxItems" in schema and "x-kubernetes-list-type" in schema):
        raise NotStructuralError(f"{path}: a list needs `maxItems` and `x-kubernetes-list-type`")
    if kind == "object" and "additionalProperties" in schema and "maxProperties" not in schema:
        raise NotStructuralError(f"{path}: a map needs `maxProperties`")
    if kind == "string" and not ({"maxLength", "enum", "format"} & schema.keys()):
        raise NotStructuralError(f"{path}: a string needs `maxLength`")
