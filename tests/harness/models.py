"""Builders for QuantizedModels: `make_model("m").repository("a/b").context(8192).manifest()`."""

from __future__ import annotations

import copy
from typing import Any


class QuantizedModelBuilder:
    """Each method sets one thing and returns the builder."""

    def __init__(self, name: str, namespace: str) -> None:
        self._body: dict[str, Any] = {
            "apiVersion": "kubequant.dev/v1alpha1",
            "kind": "QuantizedModel",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"model": {"repository": "Qwen/Qwen2.5-7B-Instruct-AWQ"}},
        }

    def repository(self, repository: str, revision: str | None = None) -> QuantizedModelBuilder:
        self._body["spec"]["model"]["repository"] = repository
        if revision:
            self._body["spec"]["model"]["revision"] = revision
        return self

    def token(self, secret: str, key: str = "token") -> QuantizedModelBuilder:
        self._body["spec"]["model"]["tokenSecretRef"] = {"name": secret, "key": key}
        return self

    def context(self, tokens: int) -> QuantizedModelBuilder:
        return self.serving(contextTokens=tokens)

    def serving(self, **fields: Any) -> QuantizedModelBuilder:
        self._body["spec"].setdefault("serving", {}).update(fields)
        return self

    def quantization(self, **fields: Any) -> QuantizedModelBuilder:
        self._body["spec"].setdefault("quantization", {}).update(fields)
        return self

    def gpu(self, **fields: Any) -> QuantizedModelBuilder:
        self._body["spec"].setdefault("gpu", {}).update(fields)
        return self

    def pod(self, **fields: Any) -> QuantizedModelBuilder:
        self._body["spec"].setdefault("pod", {}).update(fields)
        return self

    def replicas(self, count: int) -> QuantizedModelBuilder:
        self._body["spec"]["replicas"] = count
        return self

    def rollout(self, strategy: str) -> QuantizedModelBuilder:
        self._body["spec"]["rollout"] = {"strategy": strategy}
        return self

    def mode(self, mode: str) -> QuantizedModelBuilder:
        self._body["spec"]["mode"] = mode
        return self

    def annotation(self, key: str, value: str) -> QuantizedModelBuilder:
        self._body["metadata"].setdefault("annotations", {})[key] = value
        return self

    def manifest(self) -> dict[str, Any]:
        return copy.deepcopy(self._body)


def make_model(name: str, namespace: str = "default") -> QuantizedModelBuilder:
    return QuantizedModelBuilder(name, namespace)
