"""Names, labels and annotations of everything that a QuantizedModel owns."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FIELD_MANAGER = "kubequant"
STATUS_FIELD_MANAGER = "kubequant-status"

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "kubequant"
MODEL_LABEL = "kubequant.dev/model"
REVISION_LABEL = "kubequant.dev/revision"
JOB_MODEL_LABEL = "kubequant.dev/job-of"  # on pods of Jobs, which MODEL_LABEL would make endpoints and replicas
COMPONENT_LABEL = "app.kubernetes.io/component"
REVISION_ANNOTATION = "kubequant.dev/revision"
OUTCOME_ANNOTATION = "kubequant.dev/outcome"
MEASURED_ANNOTATION = "kubequant.dev/measured"
REPLAN_ANNOTATION = "kubequant.dev/replan"

OWNED_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGED_BY}"


@dataclass(frozen=True)
class Owner:
    """The QuantizedModel that owns a child."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


def labels_of(owner: Owner) -> dict[str, str]:
    """On every child; the selector of Deployment, Service and PodDisruptionBudget is a part of it."""
    return {"app.kubernetes.io/name": "vllm", "app.kubernetes.io/instance": owner.name, **selector_of(owner)}


def selector_of(owner: Owner) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, MODEL_LABEL: owner.name}


def selector_text(owner: Owner) -> str:
    """As the scale subresource wants it: a string."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector_of(owner).items()))


def metadata_of(owner: Owner, name: str, **annotations: str) -> dict[str, Any]:
    """Metadata of a child: our labels and a controlling owner reference."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": owner.namespace,
        "labels": labels_of(owner),
        "ownerReferences": [{**owner_reference(owner), "controller": True}],
    }
    if annotations:
        metadata["annotations"] = annotations
    return metadata


def owner_reference(owner: Owner) -> dict[str, Any]:
    """One owner of several; none of them controls the object."""
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "blockOwnerDeletion": False,
    }


def digest(value: Any, length: int = 64) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def revision_name(owner: Owner, data: dict[str, Any]) -> str:
    """`<model>-<10 hex of its content>`: the same decision has the same name after a crash between two writes."""
    return f"{owner.name}-{digest(data, 10)}"


def files_name(owner: Owner, files: dict[str, str]) -> str:
    return f"{owner.name}-{_files_digest(tuple(files.items()))}"


@lru_cache(maxsize=8)
def _files_digest(files: tuple[tuple[str, str], ...]) -> str:
    """Kept: 45 kB that are the same for every model, asked for at every reconcile."""
    return digest(dict(files), 10)
