"""The CustomResourceDefinition: generated, bounded, and of the shape that the conventions ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kubequant.api.crd import crd_yaml, quantized_model_crd
from kubequant.api.spec import QuantizedModelSpec
from kubequant.api.status import QuantizedModelStatus

ROOT = Path(__file__).parents[3]
VERSION = quantized_model_crd()["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], path + suffix)


WRITTEN = [entry for name in ("spec", "status") for entry in nodes(SCHEMA["properties"][name], name)]


def test_the_file_is_what_the_code_generates() -> None:
    file = ROOT / "crds" / "kubequant.dev_quantizedmodels.yaml"
    assert file.read_text(encoding="utf-8") == crd_yaml(), "run `make crds`"


def test_everything_is_bounded() -> None:
    assert len(WRITTEN) > 100
    for path, node in WRITTEN:
        kind = node.get("type")
        if kind == "string":
            assert "maxLength" in node or "enum" in node or node.get("format") == "date-time", path
        elif kind == "array":
            assert "maxItems" in node and "x-kubernetes-list-type" in node, path
        elif kind == "object" and "properties" not in node:
            assert "maxProperties" in node, path
        elif node.get("x-kubernetes-int-or-string"):
            assert node["x-kubernetes-validations"], path
        else:
            assert kind in ("object", "integer", "boolean"), path


def test_integers_of_the_spec_have_both_bounds() -> None:
    for path, node in WRITTEN:
        if path.startswith("spec") and node.get("type") == "integer":
            assert {"minimum", "maximum"} <= node.keys() and node["format"] == "int32", path


def test_names_are_camel_case_and_nothing_is_nullable_or_a_float() -> None:
    for path, node in WRITTEN:
        assert "nullable" not in node and node.get("type") != "number", path
        assert re.fullmatch(r"[a-zA-Z0-9*]+(\[\])*", path.rpartition(".")[2]), path


@pytest.mark.parametrize("part", ["model", "quantization", "serving", "gpu"])
def test_planning_inputs_have_no_defaults(part: str) -> None:
    """The hash of a decision covers them as written: a default of a newer CRD would plan everything anew."""
    assert [path for path, node in nodes(SCHEMA["properties"]["spec"]["properties"][part]) if "default" in node] == []


def test_every_rule_has_a_sentence_for_the_user() -> None:
    rules = [rule for _, node in nodes(SCHEMA) for rule in node.get("x-kubernetes-validations", [])]
    assert len(rules) > 15
    assert all(len(rule["message"]) > 15 for rule in rules)


def test_conditions_are_a_map_by_type() -> None:
    conditions = SCHEMA["properties"]["status"]["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


@pytest.mark.parametrize("path", ["specReplicasPath", "statusReplicasPath", "labelSelectorPath"])
def test_the_scale_subresource_points_at_fields_that_exist(path: str) -> None:
    _, top, name = VERSION["subresources"]["scale"][path].split(".")
    assert name in SCHEMA["properties"][top]["properties"]


def test_columns_point_at_fields_that_exist() -> None:
    for column in VERSION["additionalPrinterColumns"]:
        parts = column["jsonPath"].split("[")[0].strip(".").split(".")
        if parts[0] == "metadata":
            continue
        node = SCHEMA
        for part in parts:
            node = node["properties"][part]


FULL = {
    "model": {"repository": "a/b", "revision": "main", "tokenSecretRef": {"name": "s", "key": "k"}},
    "quantization": {"scheme": "W4A16", "checkpoint": {"repository": "a/b-awq"}},
    "serving": {
        "servedModelName": "b", "contextTokens": 8192, "concurrentRequests": 4, "tokensPerRequest": 100,
        "kvCacheDtype": "FP8", "engineArguments": {"enable-prefix-caching": "true"},
    },
    "gpu": {"minMemory": "40Gi", "minComputeCapability": "8.9", "products": ["NVIDIA-L4"], "perReplica": 2},
    "replicas": 3,
    "pod": {
        "nodeSelector": {"pool": "a"}, "tolerations": [{"key": "x", "operator": "Exists", "effect": "NoExecute"}],
        "resources": {"cpu": 2, "memory": "16Gi"}, "labels": {"team": "a"}, "imagePullSecrets": [{"name": "s"}],
    },
    "rollout": {"strategy": "Surge"},
    "mode": "Plan",
}  # fmt: skip


def test_what_a_user_writes_comes_back_as_written() -> None:
    spec = QuantizedModelSpec.model_validate(FULL)
    assert spec.model_dump(by_alias=True, exclude_none=True, mode="json") == FULL


def test_fields_of_a_newer_crd_are_ignored() -> None:
    spec = QuantizedModelSpec.model_validate({**FULL, "fromTheFuture": {"a": 1}})
    assert spec == QuantizedModelSpec.model_validate(FULL)


@pytest.mark.parametrize(("model", "part"), [(QuantizedModelSpec, "spec"), (QuantizedModelStatus, "status")])
def test_the_schema_has_the_fields_of_the_model(model: type[BaseModel], part: str) -> None:
    aliases = {field.alias for field in model.model_fields.values()}
    assert aliases == SCHEMA["properties"][part]["properties"].keys()
