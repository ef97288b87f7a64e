"""The answer as a document for programs: JSON, YAML, or the Deployment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from kubequant.api.crd import GROUP, KIND, VERSION
from kubequant.cli.asking import Asked
from kubequant.cli.difference import Change
from kubequant.manifests.children import Replacement, build_deployment, engine_files
from kubequant.manifests.names import Owner, revision_name
from kubequant.manifests.recipe import EngineSettings
from kubequant.planning.values import Alternative, Fleet, GpuClass, ModelFacts, Plan, Refusal, Refused
from kubequant.reconcile.decision import Decision, decide
from kubequant.reconcile.inputs import inputs_hash, pod_hash
from kubequant.reconcile.plan_status import plan_status

Document = dict[str, Any]

_NOMINAL_UID = "00000000-0000-0000-0000-000000000000"


def as_json(document: Document) -> str:
    return json.dumps(document, indent=2)


def as_yaml(document: Document) -> str:
    """What JSON says: an enumeration's word is text there, where YAML's writer refuses it."""
    return yaml.safe_dump(json.loads(as_json(document)), sort_keys=False, width=120).rstrip("\n")


def plan_document(
    result: Plan | Refused,
    engine: EngineSettings,
    *,
    cost_per_million_tokens: float | None = None,
    changes: Sequence[Change] | None = None,
    discovery: Document | None = None,
) -> Document:
    """`plan` and `discovery` have the fields of status; the lists beside them are whole, where status cuts them."""
    found = {"discovery": discovery} if discovery else {}
    if isinstance(result, Refused):
        answer: Document = {"fits": False, "reason": result.reason, "message": result.message, "plan": None}
        return {**answer, "alternatives": [], "refusals": [_refusal(refusal) for refusal in result.refusals], **found}
    return _without_none(
        {
            "fits": True,
            "plan": plan_status(result, engine),
            "alternatives": [_alternative(other) for other in result.alternatives],
            "refusals": [_refusal(refusal) for refusal in result.refusals],
            "pricePerHour": result.price_per_hour,
            "costPerMillionTokens": cost_per_million_tokens,
            **found,
            "changes": None if changes is None else [_change(change) for change in changes],
        }
    )


def _refusal(refusal: Refusal) -> Document:
    return {
        "gpuProduct": refusal.gpu,
        "gpus": refusal.gpus,
        "scheme": refusal.scheme,
        **({"checkpoint": refusal.checkpoint} if refusal.checkpoint else {}),
        "reason": refusal.reason,
        "rule": refusal.rule,
        "message": refusal.message,
        "numbers": dict(refusal.numbers),
    }


def _alternative(other: Alternative) -> Document:
    return _without_none(
        {
            "gpuProduct": other.gpu,
            "gpus": other.gpus,
            "scheme": other.scheme,
            "kvCacheDtype": other.kv_cache_dtype,
            "contextTokens": other.context_tokens,
            "kvCacheTokens": other.kv_cache_tokens,
            "memoryBytes": other.memory_bytes,
            "predicted": other.predicted,
            "checkpoint": other.checkpoint or None,
            "decodeTokensPerSecondBound": other.decode_tokens_per_second_bound,
            "pricePerHour": other.price_per_hour,
            "message": other.message,
        }
    )


def _change(change: Change) -> Document:
    return {"field": change.field, "before": change.before, "after": change.after}


def fleet_document(fleet: Fleet) -> Document:
    return {
        "gpus": [_gpu(gpu) for gpu in fleet.classes],
        "notPlannedOn": [{"node": node.name, "reason": node.reason} for node in fleet.unreadable],
        "nodes": fleet.nodes,
    }


def _gpu(gpu: GpuClass) -> Document:
    return {
        "product": gpu.product,
        "perNode": gpu.per_node,
        "nodes": gpu.nodes,
        "gpus": gpu.gpus,
        "free": gpu.free,
        "labelMemoryBytes": gpu.label_memory_bytes,
        "memoryBytes": gpu.memory_bytes,
        "computeCapability": str(gpu.compute_capability),
        "resource": gpu.resource,
        "origin": gpu.origin.value,
        "pricePerHour": gpu.price_per_hour,
    }


def decision(asked: Asked, facts: ModelFacts, plan: Plan, engine: EngineSettings) -> Decision:
    """What the operator would write down."""
    hashes = (inputs_hash(asked.body, ""), pod_hash(asked.body))
    return decide(_owner(asked), asked.spec, hashes, facts, plan, engine, engine_files())


def deployment(asked: Asked, made: Decision) -> Document:
    """The Deployment that the operator would make. Without an owner: there is no QuantizedModel that could be one."""
    owner = _owner(asked)
    revision = revision_name(owner, made.to_data())
    manifest = build_deployment(owner, revision, made.template, asked.spec.replicas, Replacement.SURGE)
    del manifest["metadata"]["ownerReferences"]  # the garbage collector would delete what an unknown uid owns
    return manifest


def _owner(asked: Asked) -> Owner:
    return Owner(f"{GROUP}/{VERSION}", KIND, asked.namespace, asked.name, _NOMINAL_UID)


def _without_none(document: Document) -> Document:
    return {name: value for name, value in document.items() if value is not None}
